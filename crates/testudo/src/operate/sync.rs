//! `testudo sync show` and `testudo sync verify`: how entries get to the other nodes, and whether all have
//! the same.
//!
//! Exit codes of `verify`: 0 all the same, 1 not, or not known, 2 asked wrongly.

use std::fmt::Write;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use clap::Subcommand;

use crate::control::protocol::{Commits, Difference, KeptBack, SyncPeer, Syncs, Verification};
use crate::inspect::columns::{Column, or_dash, render};
use crate::inspect::status::copies;
use crate::inspect::{Connection, InspectError, finish};

/// How far apart looks at what a comparison has come to are.
const LOOK: Duration = Duration::from_millis(50);

/// How long it is waited for: the node gives up sooner.
const PATIENCE: Duration = Duration::from_secs(10);

/// Show how entries get to the other nodes, and compare all nodes' tables.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show by how much each peer lags, and what was sent, refused, compared and repaired
    Show {
        #[command(flatten)]
        connection: Connection,
    },
    /// Compare the tables of all nodes now; fails if they are not all the same
    Verify {
        #[command(flatten)]
        connection: Connection,
    },
}

/// `testudo sync show|verify`
pub fn run(args: &Args) -> ExitCode {
    match &args.command {
        Command::Show { connection } => finish(show(connection)),
        Command::Verify { connection } => match verify(connection) {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(error) => finish(Err(error)),
        },
    }
}

fn show(connection: &Connection) -> Result<(), InspectError> {
    let syncs = connection.open()?.sync()?;
    connection.print(&syncs, render_syncs)
}

/// Says whether all nodes have the same.
fn verify(connection: &Connection) -> Result<bool, InspectError> {
    let mut client = connection.open()?;
    let number = client.verify()?.number;
    let end = Instant::now() + PATIENCE;
    loop {
        let verification = client.verified(number)?;
        if verification.done || Instant::now() >= end {
            connection.print(&verification, render_verification)?;
            return Ok(verification.identical);
        }
        thread::sleep(LOOK);
    }
}

/// How far each peer is, then what has come of comparing with it.
fn render_syncs(syncs: &Syncs) -> String {
    let columns = [
        Column::Left("PEER"),
        Column::Left("SYNC"),
        Column::Right("LAG"),
        Column::Right("LAG-MS"),
        Column::Right("P50-MS"),
        Column::Right("P99-MS"),
        Column::Right("SENT"),
        Column::Right("ACKNOWLEDGED"),
        Column::Right("COALESCED"),
        Column::Right("BYTES-OUT"),
        Column::Right("BYTES-IN"),
    ];
    let row = |SyncPeer { name, sync }: &SyncPeer| {
        [
            name.clone(),
            if sync.connected { "connected" } else { "disconnected" }.to_owned(),
            sync.pending.to_string(),
            millis(sync.lag_us),
            or_dash(sync.delay_p50_us.map(millis)),
            or_dash(sync.delay_p99_us.map(millis)),
            sync.sent.to_string(),
            sync.acknowledged.to_string(),
            sync.coalesced.to_string(),
            sync.bytes_sent.to_string(),
            sync.bytes_received.to_string(),
        ]
    };
    let rows: Vec<_> = syncs.peers.iter().map(row).collect();
    let mut text = render(columns, &rows);
    text.push('\n');
    text.push_str(&comparisons(&syncs.peers));
    for SyncPeer { name, sync } in &syncs.peers {
        let rejected = sync.rejected;
        if rejected.total() > 0 {
            // Writing to a string can't fail.
            let _ = write!(
                text,
                "\nrefused of {name}: {} overtaken, {} not by the owner, {} for lack of room, {} of no \
                 bucket, {} by references that led nowhere, {} of buckets not kept\n",
                rejected.older,
                rejected.not_owner,
                rejected.full,
                rejected.no_such_bucket,
                rejected.unknown,
                rejected.not_kept
            );
        }
        if let Some(last) = sync.comparison.last {
            let seconds = last.ago_ms / 1000;
            let repair = last.repair.map_or("not repaired yet".to_owned(), |repair| {
                let (took, records) = (millis(repair.took_us), repair.records);
                format!("repaired in {took} ms with {records} records")
            });
            let _ = write!(
                text,
                "\nlast divergence of {name}: bucket {}, {seconds} s ago, {repair}\n",
                last.bucket
            );
        }
    }
    text.push_str(&commits(&syncs.commits));
    // Writing to a string can't fail.
    let _ = write!(text, "\n{}\n", copies(&syncs.copies));
    text.push_str(&kept_back(&syncs.replication));
    text
}

/// Which flows end with the node, if any do.
fn kept_back(kept: &KeptBack) -> String {
    let KeptBack { not_replicated, waiting, crowded } = *kept;
    if not_replicated + waiting + crowded == 0 {
        return String::new();
    }
    format!(
        "\nown flows that are not replicated, as their rules say: {not_replicated}, of which {waiting} wait \
         for their time; {crowded} were replicated before it, for lack of room to wait\n"
    )
}

/// What has come of first packets that waited, if any has.
fn commits(commits: &Commits) -> String {
    let Commits { committed, timed_out, cut_short, refused, p50_us, p99_us } = *commits;
    if committed + timed_out + cut_short + refused == 0 {
        return String::new();
    }
    let (p50, p99) = (millis(p50_us), millis(p99_us));
    format!(
        "\nflows committed before their first packet went on: {committed}, {timed_out} timed out, \
         {cut_short} cut short by a move, {refused} refused; waited {p50} ms (p50), {p99} ms (p99)\n"
    )
}

fn comparisons(peers: &[SyncPeer]) -> String {
    let columns = [
        Column::Left("PEER"),
        Column::Right("EQUAL"),
        Column::Right("CAUGHT-UP"),
        Column::Right("DIVERGED"),
        Column::Right("REPAIRED"),
        Column::Right("RESENT"),
        Column::Right("RESYNCS"),
        Column::Right("REFUSED"),
    ];
    let row = |SyncPeer { name, sync }: &SyncPeer| {
        let comparison = sync.comparison;
        [
            name.clone(),
            comparison.equal.to_string(),
            comparison.caught_up.to_string(),
            comparison.diverged.to_string(),
            comparison.repaired.to_string(),
            comparison.resent.to_string(),
            sync.resyncs.to_string(),
            sync.rejected.total().to_string(),
        ]
    };
    render(columns, &peers.iter().map(row).collect::<Vec<_>>())
}

fn millis(micros: u64) -> String {
    format!("{}.{:03}", micros / 1000, micros % 1000)
}

fn render_verification(verification: &Verification) -> String {
    let Verification { buckets, nodes, dead, differences, unknown, .. } = verification;
    let names = nodes.join(", ");
    let mut text = match (verification.identical, differences.is_empty()) {
        (true, _) => format!("identical: {buckets} buckets on {names}\n"),
        (false, true) => format!("not known: {buckets} buckets on {names}\n"),
        (false, false) => format!("DIFFERENT: {buckets} buckets on {names}\n"),
    };
    // Writing to a string can't fail.
    if !dead.is_empty() {
        let _ = writeln!(text, "dead, and not compared: {}", dead.join(", "));
    }
    for reason in unknown {
        let _ = writeln!(text, "not compared: {reason}");
    }
    if !differences.is_empty() {
        let columns = [
            Column::Left("OWNER"),
            Column::Left("PEER"),
            Column::Right("DIFFER"),
            Column::Left("BUCKETS"),
        ];
        let row = |Difference { owner, peer, count, buckets }: &Difference| {
            let named = buckets.iter().map(u16::to_string).collect::<Vec<_>>().join(",");
            [owner.clone(), peer.clone(), count.to_string(), named]
        };
        let rows: Vec<_> = differences.iter().map(row).collect();
        text.push('\n');
        text.push_str(&render(columns, &rows));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_sent_compared_and_repaired_stands_in_columns() {
        let syncs: Syncs = serde_json::from_value(json!({"node": "n1",
            "copies": {"replicas": "2", "kept": 96, "taken_without": 3}, "peers": [
            {"name": "n2", "sync": {
                "connected": true, "sent": 1200, "acknowledged": 1190, "pending": 12,
                "lag_us": 1850, "delay_p50_us": 420, "delay_p99_us": 1900, "coalesced": 3,
                "bytes_sent": 76_800, "bytes_received": 900,
                "rejected": {"older": 2, "not_owner": 1, "full": 0, "no_such_bucket": 0, "unknown": 0,
                             "not_kept": 4},
                "comparison": {
                    "equal": 900, "caught_up": 85, "diverged": 1, "repaired": 1, "resent": 340,
                    "last": {"bucket": 17, "ago_ms": 5200,
                             "repair": {"took_us": 2100, "snapshots": 1, "records": 4}}},
            }},
            {"name": "n3", "sync": {}},
        ]}))
        .unwrap();
        let text = "\
PEER  SYNC          LAG  LAG-MS  P50-MS  P99-MS  SENT  ACKNOWLEDGED  COALESCED  BYTES-OUT  BYTES-IN
n2    connected      12   1.850   0.420   1.900  1200          1190          3      76800       900
n3    disconnected    0   0.000       -       -     0             0          0          0         0

PEER  EQUAL  CAUGHT-UP  DIVERGED  REPAIRED  RESENT  RESYNCS  REFUSED
n2      900         85         1         1     340        0        7
n3        0          0         0         0       0        0        0

refused of n2: 2 overtaken, 1 not by the owner, 0 for lack of room, 0 of no bucket, 0 by references that led nowhere, 4 of buckets not kept

last divergence of n2: bucket 17, 5 s ago, repaired in 2.100 ms with 4 records

replicas 2, 96 buckets kept here, 3 buckets TAKEN OVER WITHOUT A COPY: flows were lost
";
        assert_eq!(render_syncs(&syncs), text);
    }

    #[test]
    fn flows_that_end_with_the_node_are_counted() {
        let syncs = |replication| {
            let syncs = json!({"node": "n1", "peers": [], "replication": replication});
            render_syncs(&serde_json::from_value(syncs).unwrap())
        };
        let kept = json!({"not_replicated": 40, "waiting": 12, "crowded": 3});
        let text = "\
own flows that are not replicated, as their rules say: 40, of which 12 wait for their time; 3 were \
replicated before it, for lack of room to wait
";
        assert_eq!(syncs(kept).lines().last(), text.lines().last());
        let none = json!({"not_replicated": 0, "waiting": 0, "crowded": 0});
        assert!(!syncs(none).contains("replicated"));
    }

    #[test]
    fn a_comparison_says_first_what_it_came_to() {
        let mut verification = Verification {
            done: true,
            identical: true,
            buckets: 256,
            nodes: vec!["n1".into(), "n2".into()],
            dead: vec!["n3".into()],
            differences: Vec::new(),
            unknown: Vec::new(),
        };
        let text = "identical: 256 buckets on n1, n2\ndead, and not compared: n3\n";
        assert_eq!(render_verification(&verification), text);
        verification.identical = false;
        verification.dead.clear();
        verification.unknown.push("n1 has no stream with n2".into());
        let text = "not known: 256 buckets on n1, n2\nnot compared: n1 has no stream with n2\n";
        assert_eq!(render_verification(&verification), text);
        let (owner, peer) = ("n1".to_owned(), "n2".to_owned());
        verification.differences.push(Difference { owner, peer, count: 2, buckets: vec![3, 9] });
        verification.unknown.clear();
        let text = "\
DIFFERENT: 256 buckets on n1, n2

OWNER  PEER  DIFFER  BUCKETS
n1     n2         2  3,9
";
        assert_eq!(render_verification(&verification), text);
    }
}
