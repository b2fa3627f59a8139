//! Interfaces of a test's own, in a network namespace of its own: what is written to a [`Tap`] comes in
//! by it, and what is sent out of it can be read. Nothing of it outlives the test.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Command;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// A TAP device of the calling thread's network namespace.
pub struct Tap {
    file: File,
    name: String,
}

#[repr(C)]
struct Request {
    name: [u8; 16],
    flags: i16,
    rest: [u8; 22],
}

impl Tap {
    pub fn new(name: &str) -> Self {
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).custom_flags(libc::O_NONBLOCK);
        let file = options.open("/dev/net/tun").expect("/dev/net/tun");
        let mut request = Request { name: [0; 16], flags: 0, rest: [0; 22] };
        request.name[..name.len()].copy_from_slice(name.as_bytes());
        request.flags = (libc::IFF_TAP | libc::IFF_NO_PI) as i16;
        // SAFETY: the request is what this command reads and writes, and outlives the call.
        let made = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
        assert_eq!(made, 0, "a TAP device: {}", std::io::Error::last_os_error());
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").expect("a socket");
        request.flags = (libc::IFF_UP | libc::IFF_RUNNING) as i16;
        // SAFETY: as above.
        let up = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw mut request) };
        assert_eq!(up, 0, "{name} up: {}", std::io::Error::last_os_error());
        Self { file, name: name.into() }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn number(&self) -> u32 {
        nix::net::if_::if_nametoindex(self.name.as_str()).expect("the device")
    }

    /// A frame comes in by the interface.
    pub fn comes_in(&mut self, frame: &[u8]) {
        assert_eq!(self.file.write(frame).expect("a write"), frame.len());
    }

    /// The frames that have gone out so far.
    pub fn gone_out(&mut self) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        let mut room = [0; 4096];
        loop {
            match self.file.read(&mut room) {
                Ok(bytes) => frames.push(room[..bytes].to_vec()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return frames,
                Err(error) => panic!("reading {}: {error}", self.name),
            }
        }
    }
}

/// Runs `test` in a network namespace and a mount namespace of its own, with a directory in which it
/// may mount.
pub fn in_namespaces(test: impl FnOnce(&Path) + Send + 'static) {
    static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let name = format!("testudo-test-{}-{number}", std::process::id());
    let directory = std::env::temp_dir().join(name);
    fs::create_dir(&directory).expect("a directory");
    let inside = directory.clone();
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("namespaces");
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("private");
        // The kernel's own packets are in nobody's interest here.
        fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").expect("no IPv6");
        test(&inside);
    });
    let done = thread.join();
    fs::remove_dir(&directory).expect("an empty directory");
    if let Err(panic) = done {
        std::panic::resume_unwind(panic);
    }
}

/// Runs ip(8).
pub fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status().expect("ip(8)");
    assert!(status.success(), "ip {arguments}");
}

/// Two interfaces of a machine that forwards, with a network behind each.
pub fn site() -> [Tap; 2] {
    for (setting, value) in [
        ("ipv4/ip_forward", "1"),
        ("ipv6/conf/default/disable_ipv6", "0"),
        ("ipv6/conf/default/accept_dad", "0"),
        ("ipv6/conf/all/forwarding", "1"),
    ] {
        fs::write(format!("/proc/sys/net/{setting}"), value).expect(setting);
    }
    let taps = [Tap::new("inside"), Tap::new("outside")];
    for arguments in [
        "addr add 10.10.0.9/16 dev inside",
        "addr add 10.20.0.9/16 dev outside",
        "addr add fd10::9/16 dev inside nodad",
        "addr add fd20::9/16 dev outside nodad",
        "route add blackhole 10.66.0.0/16",
        "neigh add 10.20.2.1 lladdr 02:00:00:00:00:07 dev outside",
        "neigh add fd20::2:1 lladdr 02:00:00:00:00:07 dev outside",
        "neigh add 10.10.2.1 lladdr 02:00:00:00:00:08 dev inside",
        "neigh add fd10::2:1 lladdr 02:00:00:00:00:08 dev inside",
    ] {
        ip(arguments);
    }
    taps
}
