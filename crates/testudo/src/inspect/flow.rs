//! `testudo flow show`: which flows there are. (`testudo flow admit` is in [`operate`].)

use clap::Subcommand;

use super::columns::{Column, or_dash, render};
use super::{Connection, InspectError};
use crate::control::protocol::{
    DEFAULT_FLOWS, Flow, Flows, Learned, MAX_FLOWS, Table, Translation,
};
use crate::operate;

/// Show which flows there are, and let one in
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List flows, one a line
    Show {
        /// Where to look: what packets are handled with, or what is known of the whole cluster
        #[arg(long, value_enum, default_value_t)]
        table: Table,
        /// Only flows of this bucket
        #[arg(long, value_name = "B")]
        bucket: Option<u16>,
        /// Show what the flows' packets have taught this node instead of what was counted: of TCP how far each end has
        /// sent, how far it may, and the shift of its windows; of SCTP the tags
        #[arg(long, conflicts_with = "table")]
        learned: bool,
        /// How many at most
        #[arg(long, value_name = "N", default_value_t = DEFAULT_FLOWS,
              value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_FLOWS)))]
        limit: u32,
        #[command(flatten)]
        connection: Connection,
    },
    /// Let a flow in that no rule lets in, wherever its packets are handled
    Admit(operate::AdmitArgs),
}

pub(super) fn run(args: &Args) -> Result<(), InspectError> {
    match &args.command {
        Command::Show { table, bucket, learned, limit, connection } => {
            show((*table, *learned), *bucket, *limit, connection)
        }
        Command::Admit(args) => operate::admit(args),
    }
}

fn show(
    (table, learned): (Table, bool),
    bucket: Option<u16>,
    limit: u32,
    connection: &Connection,
) -> Result<(), InspectError> {
    let flows = connection.open()?.flows(table, bucket, limit)?;
    connection.print(&flows, |flows| match table {
        Table::Node if learned => render_learned(flows),
        Table::Node => render_node(flows),
        Table::Common => render_common(flows),
    })?;
    if flows.truncated && !connection.json {
        eprintln!("testudo: there are more than {limit} flows; --limit N shows more of them");
    }
    Ok(())
}

const COMMON: [Column; 10] = [
    Column::Left("PROTO"),
    Column::Left("INITIATOR"),
    Column::Left("->"),
    Column::Left("RESPONDER"),
    Column::Left("AS"),
    Column::Left("PHASE"),
    Column::Left("CONFIRMED"),
    Column::Right("BUCKET"),
    Column::Right("EPOCH"),
    Column::Right("SEQUENCE"),
];

/// What the node table has in addition; both ways: from the initiator / from the responder.
const ACTIVITY: [Column; 4] = [
    Column::Right("PACKETS"),
    Column::Right("BYTES"),
    Column::Right("IDLE-S"),
    Column::Left("REPLICATED"),
];

fn render_common(flows: &Flows) -> String {
    let rows: Vec<_> = flows.flows.iter().map(common_cells).collect();
    render(COMMON, &rows)
}

fn render_node(flows: &Flows) -> String {
    let columns = std::array::from_fn::<_, 14, _>(|at| {
        COMMON.get(at).copied().unwrap_or_else(|| ACTIVITY[at - COMMON.len()])
    });
    let row = |flow: &Flow| {
        let mut cells = common_cells(flow).into_iter().chain(activity_cells(flow));
        std::array::from_fn(|_| cells.next().unwrap_or_default())
    };
    let rows: Vec<[String; 14]> = flows.flows.iter().map(row).collect();
    render(columns, &rows)
}

/// What is shown of learning in place of what the node table has in addition.
const LEARNED: [Column; 3] =
    [Column::Left("INITIATOR-SAID"), Column::Left("RESPONDER-SAID"), Column::Left("STRICT")];

fn render_learned(flows: &Flows) -> String {
    let [protocol, initiator, arrow, responder, _, phase, ..] = COMMON;
    let [first, second, strict] = LEARNED;
    let columns = [protocol, initiator, arrow, responder, phase, first, second, strict];
    let row = |flow: &Flow| {
        let [protocol, initiator, arrow, responder, _, phase, ..] = common_cells(flow);
        let [first, second, strict] = learned_cells(flow.learned);
        [protocol, initiator, arrow, responder, phase, first, second, strict]
    };
    let rows: Vec<_> = flows.flows.iter().map(row).collect();
    render(columns, &rows)
}

/// A window as `sent..room`, with its shift behind `<<`; a tag as it is carried.
fn learned_cells(learned: Option<Learned>) -> [String; 3] {
    let yes_or_no = |yes| if yes { "yes" } else { "no" }.to_owned();
    match learned {
        None => ["-", "-", "-"].map(str::to_owned),
        Some(Learned::Windows(windows)) => {
            let strict = yes_or_no(windows.iter().all(|window| window.strict));
            let [first, second] = windows.map(|window| {
                let shift = window.shift.map_or_else(|| "?".to_owned(), |shift| shift.to_string());
                format!("{}..{}<<{shift}", window.sent, window.room)
            });
            [first, second, strict]
        }
        Some(Learned::Tags(tags)) => {
            let strict = yes_or_no(tags.iter().all(Option::is_some));
            let [first, second] = tags.map(|tag| or_dash(tag.map(|tag| format!("{tag:#010x}"))));
            [first, second, strict]
        }
    }
}

/// What a translated flow becomes stands under `AS`.
fn common_cells(flow: &Flow) -> [String; 10] {
    [
        flow.protocol.clone(),
        flow.initiator.to_string(),
        "->".to_owned(),
        flow.responder.to_string(),
        or_dash(flow.translation.map(|to| seen_as(flow, &to))),
        flow.phase.clone(),
        if flow.confirmed { "yes" } else { "no" }.to_owned(),
        flow.bucket.to_string(),
        flow.epoch.to_string(),
        flow.sequence.to_string(),
    ]
}

/// The ends that are not the flow's own, in their places: `A:PORT`, `-> B:PORT`, or both.
fn seen_as(flow: &Flow, to: &Translation) -> String {
    let source = (to.source != flow.initiator).then(|| to.source.to_string());
    let destination = to.destination.address != flow.responder.address
        || flow.protocol != "icmp" && flow.protocol != "icmpv6" && to.destination != flow.responder;
    let destination = destination.then(|| format!("-> {}", to.destination));
    Vec::from_iter(source.into_iter().chain(destination)).join(" ")
}

fn activity_cells(flow: &Flow) -> [String; 4] {
    let activity = flow.activity;
    [
        or_dash(activity.map(|a| format!("{}/{}", a.original_packets, a.reply_packets))),
        or_dash(activity.map(|a| format!("{}/{}", a.original_bytes, a.reply_bytes))),
        or_dash(activity.map(|a| format!("{}.{}", a.idle_ms / 1000, a.idle_ms % 1000 / 100))),
        or_dash(flow.replicated.map(|replicated| if replicated { "yes" } else { "no" })),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::protocol::{Activity, Endpoint, Window};

    fn flows() -> Flows {
        let endpoint = |address: &str, port| Endpoint { address: address.parse().unwrap(), port };
        let tcp = Flow {
            protocol: "tcp".into(),
            initiator: endpoint("10.10.0.9", 40_000),
            responder: endpoint("10.20.0.9", 443),
            translation: Some(Translation {
                source: endpoint("192.0.2.1", 2001),
                destination: endpoint("10.20.0.9", 443),
            }),
            phase: "established".into(),
            confirmed: true,
            rule: 3,
            bucket: 7,
            epoch: 2,
            sequence: 4,
            activity: Some(Activity {
                original_packets: 12,
                original_bytes: 3400,
                reply_packets: 10,
                reply_bytes: 120_000,
                idle_ms: 1290,
            }),
            replicated: Some(true),
            learned: None,
        };
        let udp = Flow {
            protocol: "udp".into(),
            initiator: endpoint("fd10::9", 5353),
            responder: endpoint("fd20::9", 53),
            translation: Some(Translation {
                source: endpoint("fd10::9", 5353),
                destination: endpoint("fd20::77", 5300),
            }),
            phase: "unreplied".into(),
            confirmed: false,
            activity: None,
            replicated: Some(false),
            ..tcp.clone()
        };
        Flows { flows: vec![tcp, udp], truncated: false }
    }

    #[test]
    fn flows_of_the_node_table_are_counted() {
        let text = "\
PROTO  INITIATOR        ->  RESPONDER      AS                  PHASE        CONFIRMED  BUCKET  EPOCH  SEQUENCE  \
PACKETS        BYTES  IDLE-S  REPLICATED
tcp    10.10.0.9:40000  ->  10.20.0.9:443  192.0.2.1:2001      established  yes             7      2         4    \
12/10  3400/120000     1.2  yes
udp    [fd10::9]:5353   ->  [fd20::9]:53   -> [fd20::77]:5300  unreplied    no              7      2         4        \
-            -       -  no
";
        assert_eq!(render_node(&flows()), text);
    }

    #[test]
    fn what_was_learned_stands_beside_the_flow() {
        let mut seen = flows();
        let window = Window { sent: 1001, room: 65_000, shift: Some(7), strict: true };
        let other = Window { sent: 7, room: 8, shift: None, ..window };
        seen.flows[0].learned = Some(Learned::Windows([window, other]));
        let text = "\
PROTO  INITIATOR        ->  RESPONDER      PHASE        INITIATOR-SAID  RESPONDER-SAID  STRICT
tcp    10.10.0.9:40000  ->  10.20.0.9:443  established  1001..65000<<7  7..8<<?         yes
udp    [fd10::9]:5353   ->  [fd20::9]:53   unreplied    -               -               -
";
        assert_eq!(render_learned(&seen), text);
        let tags = learned_cells(Some(Learned::Tags([Some(0xc11e), None])));
        assert_eq!(tags, ["0x0000c11e", "-", "no"]);
    }

    #[test]
    fn both_ends_of_a_flow_can_be_others() {
        let mut flow = flows().flows.remove(0);
        let to = Translation { destination: flow.initiator, ..flow.translation.expect("its own") };
        assert_eq!(seen_as(&flow, &to), "192.0.2.1:2001 -> 10.10.0.9:40000");
        // An identifier stands at both ends, and is said once.
        flow.protocol = "icmp".into();
        let there = crate::control::protocol::Endpoint { port: 7, ..flow.responder };
        assert_eq!(seen_as(&flow, &Translation { destination: there, ..to }), "192.0.2.1:2001");
    }

    #[test]
    fn flows_of_the_common_table_are_not() {
        let text = render_common(&flows());
        let first = text.lines().nth(1).unwrap();
        let expected = "tcp    10.10.0.9:40000  ->  10.20.0.9:443  192.0.2.1:2001      established  yes             7\
                        \x20     2         4";
        assert_eq!(first, expected);
    }
}
