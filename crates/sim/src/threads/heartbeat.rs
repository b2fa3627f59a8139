//! The heartbeat thread: it drives the membership.

use testudo_cluster::membership::{Notice, Output};

use crate::machine::{Input, Thread};
use crate::options::MS;
use crate::world::World;

impl World {
    pub(crate) fn heartbeat_thread(&mut self, node: usize, input: Input) {
        let now = self.machines[node].read(self.now);
        let Some(daemon) = &mut self.machines[node].daemon else { return };
        let membership = &mut daemon.membership;
        match input {
            // Only the latest alarm that was set rings.
            Input::Wake(due) if due == daemon.wake_at => {
                daemon.wake_at = u64::MAX;
                membership.handle_tick(now);
            }
            // A datagram that does not count is counted by the membership.
            Input::Datagram(bytes) => drop(membership.handle_datagram(now, &bytes)),
            Input::Released(incarnation) => membership.handle_released(now, incarnation),
            Input::GivenUp(bucket, epoch) => membership.handle_given_up(now, bucket, epoch),
            Input::Delivered(bucket, epoch) => membership.handle_delivered(now, bucket, epoch),
            Input::HandedOver(bucket, from, since) => {
                membership.handle_handed_over(now, bucket, from, since);
            }
            Input::Synced(version) => membership.handle_synced(now, version),
            Input::Map(map) => membership.handle_map(now, map),
            Input::Fitness(fit) => membership.handle_fitness(now, fit),
            Input::Ask(purpose) => {
                let standings = membership.standings();
                self.mail(node, Thread::Heartbeat, Input::Standings(standings, purpose));
            }
            _ => return,
        }
        while let Some(daemon) = &mut self.machines[node].daemon
            && let Some(output) = daemon.membership.poll_output()
        {
            self.perform(node, output);
        }
        self.set_wake_up(node);
    }

    fn perform(&mut self, node: usize, output: Output) {
        match output {
            Output::SetLease(deadline) => {
                let kernel = &mut self.machines[node].kernel;
                let before = kernel.leased(self.now);
                kernel.lease = deadline;
                if !before {
                    self.check(node, None);
                }
            }
            Output::Ownership(change) => {
                self.mail(node, Thread::Heartbeat, Input::Ownership(change));
            }
            Output::Send { to, datagram } => self.send(node, usize::from(to.0), datagram),
            Output::Notice(notice) => {
                self.say(node, || format!("notices {notice:?}"));
                self.tally.count(name(notice));
            }
        }
    }

    fn set_wake_up(&mut self, node: usize) {
        let lag = self.rng.within(0..MS / 2);
        let machine = &mut self.machines[node];
        let Some(daemon) = &mut machine.daemon else { return };
        let wait = machine.kernel.clock.wait(self.now, daemon.membership.next_wakeup());
        let due = self.now.saturating_add(wait);
        if due < daemon.wake_at {
            daemon.wake_at = due;
            let life = daemon.life;
            self.input_at(due.saturating_add(lag), node, life, Input::Wake(due));
        }
    }
}

fn name(notice: Notice) -> &'static str {
    match notice {
        Notice::Admitted => "lives admitted",
        Notice::LeaseGained => "leases gained",
        Notice::LeaseLost => "leases lost",
        Notice::Suspected(_) => "suspicions",
        Notice::HeardAgain(_) => "suspicions taken back",
        Notice::Fenced(_) => "fences",
        Notice::Dead(_) => "death verdicts",
        Notice::Doubled(_) | Notice::Impersonated { .. } => "doubled nodes",
        Notice::Restarted { .. } => "lives begun anew within a process",
    }
}
