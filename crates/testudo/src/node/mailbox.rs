//! How the threads of a node hand each other messages: a bounded queue and a descriptor that wakes.
//!
//! Invariant: sending never waits. The heartbeat thread sends while it guards the lease, so a
//! receiver that is behind must not hold it up; a full mailbox is told to the sender, who decides
//! what that means.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, SyncSender};

use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};

/// A mailbox that takes nothing more: it is full, or its reader is gone.
#[derive(Debug)]
pub struct Undelivered;

/// Puts messages into a mailbox.
#[derive(Debug)]
pub struct Sender<T> {
    queue: SyncSender<T>,
    wake: Arc<EventFd>,
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone(), wake: self.wake.clone() }
    }
}

impl<T> Sender<T> {
    /// Puts a message in and wakes the reader.
    pub fn send(&self, message: T) -> Result<(), Undelivered> {
        self.queue.try_send(message).map_err(|_| Undelivered)?;
        match self.wake.write(1) {
            // A counter at its limit is readable, so the reader is awake.
            Ok(_) | Err(Errno::EAGAIN) => Ok(()),
            Err(_) => Err(Undelivered),
        }
    }
}

/// A mailbox. It is readable, in the sense of poll(2), when messages may be in it.
#[derive(Debug)]
pub struct Mailbox<T> {
    queue: Receiver<T>,
    wake: Arc<EventFd>,
}

impl<T> Mailbox<T> {
    /// A mailbox for so many messages.
    pub fn new(capacity: usize) -> Result<(Sender<T>, Self), Errno> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let wake = Arc::new(EventFd::from_value_and_flags(0, flags)?);
        let (sender, queue) = mpsc::sync_channel(capacity);
        Ok((Sender { queue: sender, wake: wake.clone() }, Self { queue, wake }))
    }

    /// Makes the mailbox unreadable until the next message. To be called before it is emptied, so
    /// that no message can come in between unnoticed.
    pub fn acknowledge(&self) {
        // EAGAIN: nothing was sent since; nothing else can come of a counter.
        let _ = self.wake.read();
    }

    /// Takes the next message out.
    pub fn take(&self) -> Option<T> {
        self.queue.try_recv().ok()
    }
}

impl<T> AsFd for Mailbox<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    use super::*;

    fn readable<T>(mailbox: &Mailbox<T>) -> bool {
        let mut fds = [PollFd::new(mailbox.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO).unwrap() == 1
    }

    #[test]
    fn a_message_wakes_and_a_full_mailbox_refuses() {
        let (sender, mailbox) = Mailbox::new(2).unwrap();
        assert!(!readable(&mailbox));
        sender.send(1).unwrap();
        sender.clone().send(2).unwrap();
        assert!(sender.send(3).is_err());
        assert!(readable(&mailbox));
        mailbox.acknowledge();
        assert!(!readable(&mailbox));
        assert_eq!((mailbox.take(), mailbox.take(), mailbox.take()), (Some(1), Some(2), None));
        drop(mailbox);
        assert!(sender.send(4).is_err());
    }
}
