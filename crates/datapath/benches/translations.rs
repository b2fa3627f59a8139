//! What choosing translations costs, and that none is chosen twice: millions of flows of four nodes, of which each
//! knows its own only, to several servers under one address, until 95 of 100 of its ports are taken for each server.
//!
//! `cargo bench -p testudo-datapath --bench translations`; `-- --quick` has few servers. Needs no root. It ends with an
//! error if two flows of any nodes have the same reply, or if a reply's bucket is not its flow's.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use testudo_datapath::likenesses::Placing;
use testudo_datapath::pools::{Pool, Pools};
use testudo_packet::flow::{Address, Endpoint, FlowKey, Protocol};
use testudo_packet::placement::{Grounds, Placer};
use testudo_packet::siphash::HashKey;

const BUCKETS: u16 = 64;
const NODES: usize = 4;
const OUTSIDE: u32 = 0xc000_0201;
/// From 1024 on, without that of IPsec behind translators.
const PORTS: usize = 64_511;
const SERVERS: u32 = 40;
const QUICK: u32 = 1;
/// In steps of so many percent of the ports that are taken.
const STEPS: [usize; 4] = [25, 50, 75, 95];

/// Flow `number` to a server.
fn flow(number: u32, server: u32) -> FlowKey {
    let host = Address::v4(0x0a00_0000 + number);
    let responder = Endpoint { address: Address::v4(0xc633_6400 + server), port: 443 };
    FlowKey {
        initiator: Endpoint { address: host, port: 40_000 },
        responder,
        protocol: Protocol::TCP,
    }
}

fn main() -> Result<()> {
    let quick = std::env::args().any(|argument| argument == "--quick")
        || !std::env::args().any(|argument| argument == "--bench");
    let servers = if quick { QUICK } else { SERVERS };
    let key = HashKey::from_bytes(*b"a cluster secret");
    let grounds = Grounds::default();
    let placing = Placing::plain(Placer { key, bucket_mask: BUCKETS - 1, grounds });
    let pools = Pools::new(&[Pool::of_sources(vec![Address::v4(OUTSIDE)])], &placing);
    let mut of_node: Vec<HashSet<FlowKey>> = vec![HashSet::new(); NODES];
    let mut of_all = HashSet::new();
    println!("| ports taken | flows | refused | ns a choice |\n| ---: | ---: | ---: | ---: |");
    let (mut number, mut refused) = (vec![0; servers as usize], 0u64);
    for percent in STEPS {
        let (mut chosen, mut time) = (0u32, Duration::ZERO);
        for server in 0..servers {
            let mut taken = PORTS * (percent_before(percent)) / 100;
            while taken < PORTS * percent / 100 {
                number[server as usize] += 1;
                let flow = flow(number[server as usize], server);
                let bucket = placing.bucket(&flow);
                let own = &mut of_node[usize::from(bucket.0) % NODES];
                let begun = Instant::now();
                let found = pools.choose(&placing, 1, &flow, |reply| !own.contains(reply));
                time += begun.elapsed();
                chosen += 1;
                let Some(found) = found else {
                    refused += 1;
                    continue;
                };
                let reply = found.reply_key(Protocol::TCP);
                ensure!(placing.bucket(&reply) == bucket, "{reply:?} is not of its flow's bucket");
                ensure!(of_all.insert(reply), "{reply:?} is another flow's");
                own.insert(reply);
                taken += 1;
            }
        }
        let each = time.as_nanos() / u128::from(chosen.max(1));
        println!("| {percent} % | {} | {refused} | {each} |", of_all.len());
    }
    Ok(())
}

/// The step before.
fn percent_before(percent: usize) -> usize {
    STEPS.into_iter().filter(|step| *step < percent).max().unwrap_or(0)
}
