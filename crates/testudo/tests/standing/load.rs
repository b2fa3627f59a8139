//! A light load: TCP connections from the client through the cluster to the server, each echoed on
//! again and again, until it is asked what became of them.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};

use super::Standing;

/// How many connections there are.
const CONNECTIONS: usize = 60;
/// How long an echo may take: longer than TCP waits before it sends again after a takeover.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two rounds over all connections.
const PAUSE: Duration = Duration::from_millis(20);
/// Rounds before anything may happen: a flow that is younger than its way to the other nodes dies with
/// its node, by design.
const WARM_UP: u64 = 20;
const PORT: u16 = 7000;

/// A load that goes on.
pub struct Load {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    client: JoinHandle<Result<(), String>>,
}

impl Load {
    /// Opens the connections; they are known to all nodes when this returns.
    pub fn start(standing: &Standing) -> Self {
        let any = SocketAddr::from(([0, 0, 0, 0], PORT));
        let listener = standing.inside("server", || TcpListener::bind(any)).expect("a listener");
        thread::spawn(move || serve(&listener));
        let namespace = File::open(standing.namespace("client")).expect("the client");
        let stop = Arc::new(AtomicBool::new(false));
        let rounds = Arc::new(AtomicU64::new(0));
        let (stopped, counted) = (stop.clone(), rounds.clone());
        let client = thread::spawn(move || {
            setns(namespace, CloneFlags::CLONE_NEWNET).map_err(|errno| errno.to_string())?;
            talk(&stopped, &counted)
        });
        let load = Self { stop, rounds, client };
        standing.until("the load runs", || load.rounds.load(Ordering::Relaxed) > WARM_UP);
        load
    }

    /// Ends the load, after one round more; none of the connections may have been lost.
    pub fn finish(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.client.join().expect("the client").expect("no connection is lost");
        let rounds = self.rounds.load(Ordering::Relaxed);
        assert!(rounds > 2 * WARM_UP, "only {rounds} rounds: that was no load");
    }
}

/// Ends with the last connection, when the process does.
fn serve(listener: &TcpListener) {
    for stream in listener.incoming().take(CONNECTIONS) {
        let Ok(mut stream) = stream else { return };
        thread::spawn(move || {
            let mut bytes = [0; 8];
            while stream.read_exact(&mut bytes).is_ok() && stream.write_all(&bytes).is_ok() {}
        });
    }
}

fn talk(stop: &AtomicBool, rounds: &AtomicU64) -> Result<(), String> {
    let server = SocketAddr::from(([10, 20, 2, 1], PORT));
    let open = |_| TcpStream::connect_timeout(&server, PATIENCE).map_err(|e| e.to_string());
    let mut streams = (0..CONNECTIONS).map(open).collect::<Result<Vec<_>, _>>()?;
    for round in 0u64.. {
        let last = stop.load(Ordering::Relaxed);
        for (number, stream) in streams.iter_mut().enumerate() {
            let mut echo = || -> std::io::Result<u64> {
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.write_all(&round.to_le_bytes())?;
                let mut bytes = [0; 8];
                stream.read_exact(&mut bytes)?;
                Ok(u64::from_le_bytes(bytes))
            };
            match echo() {
                Ok(echoed) if echoed == round => {}
                Ok(echoed) => return Err(format!("{number}: {echoed} for {round}")),
                Err(error) => return Err(format!("connection {number}, round {round}: {error}")),
            }
        }
        if last {
            return Ok(());
        }
        rounds.store(round, Ordering::Relaxed);
        thread::sleep(PAUSE);
    }
    Ok(())
}
