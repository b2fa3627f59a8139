//! `testudo bucket show`: whose the buckets are. (`testudo bucket move` is in [`operate`].)

use clap::Subcommand;

use super::columns::{Column, or_dash, render};
use super::{Connection, InspectError};
use crate::control::protocol::{Bucket, BucketState, Buckets};
use crate::operate;

/// Show whose the buckets are, and move them
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List owner, successors, epoch and state of every bucket, or of one
    Show {
        /// Only this bucket
        bucket: Option<u16>,
        #[command(flatten)]
        connection: Connection,
    },
    /// Move a bucket to another node
    Move(operate::MoveArgs),
}

pub(super) fn run(args: &Args) -> Result<(), InspectError> {
    match &args.command {
        Command::Show { bucket, connection } => show(*bucket, connection),
        Command::Move(args) => operate::move_bucket(args),
    }
}

fn show(bucket: Option<u16>, connection: &Connection) -> Result<(), InspectError> {
    let buckets = connection.open()?.buckets(bucket)?;
    if let Some(bucket) = bucket
        && buckets.buckets.is_empty()
    {
        return Err(InspectError::NoBucket { bucket });
    }
    connection.print(&buckets, render_buckets)
}

fn render_buckets(buckets: &Buckets) -> String {
    let columns = [
        Column::Right("BUCKET"),
        Column::Left("OWNER"),
        Column::Left("SUCCESSORS"),
        Column::Right("EPOCH"),
        Column::Left("STATE"),
        Column::Right("ENTRIES"),
    ];
    let rows: Vec<_> = buckets.buckets.iter().map(row).collect();
    render(columns, &rows)
}

fn row(bucket: &Bucket) -> [String; 6] {
    let state = match bucket.state {
        BucketState::Active => "active",
        BucketState::Loading => "loading",
        BucketState::Holding => "holding",
        BucketState::Yielding => "yielding",
        BucketState::Foreign => "foreign",
    };
    let successors = Some(bucket.successors.join(",")).filter(|names| !names.is_empty());
    [
        bucket.bucket.to_string(),
        or_dash(bucket.owner.as_ref()),
        or_dash(successors),
        bucket.epoch.to_string(),
        state.to_owned(),
        bucket.entries.to_string(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_rows() {
        let owned = Bucket {
            bucket: 0,
            owner: Some("n1".into()),
            successors: vec!["n2".into(), "n3".into()],
            epoch: 12,
            state: BucketState::Active,
            entries: 3,
        };
        let vacant = Bucket {
            bucket: 255,
            owner: None,
            successors: Vec::new(),
            state: BucketState::Foreign,
            ..owned.clone()
        };
        let text = "\
BUCKET  OWNER  SUCCESSORS  EPOCH  STATE    ENTRIES
     0  n1     n2,n3          12  active         3
   255  -      -              12  foreign        3
";
        assert_eq!(render_buckets(&Buckets { buckets: vec![owned, vacant] }), text);
    }
}
