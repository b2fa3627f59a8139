//! `testudo pki`: makes the cluster's authority and the certificates of its members.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Subcommand;

use super::directory::{Directory, Issued, PkiError};
use super::facts::Moment;
use super::{AUTHORITY_DAYS, MEMBER_DAYS};

/// Where an authority is kept unless a command says otherwise.
pub const DIRECTORY: &str = "/etc/testudo/pki";

/// What can be done with an authority.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make the cluster's authority: a key that stays here, and what all members trust
    Init {
        #[command(flatten)]
        place: Place,
        /// What the authority is called after
        #[arg(long, value_name = "NAME", default_value = "testudo")]
        cluster: String,
        /// How long the authority is valid
        #[arg(long, default_value_t = AUTHORITY_DAYS, value_parser = days())]
        days: u32,
    },
    /// Make a key and a certificate for each of these members, or new ones
    Issue {
        /// The members' names, as their configurations have them
        #[arg(required = true)]
        names: Vec<String>,
        #[command(flatten)]
        place: Place,
        /// How long the certificates are valid
        #[arg(long, default_value_t = MEMBER_DAYS, value_parser = days())]
        days: u32,
    },
    /// Replace the authority: make a new one that is trusted beside the old one, and new certificates for
    /// all members
    Rotate {
        #[command(flatten)]
        place: Place,
        /// Drop the old authority, when all members have their new certificates
        #[arg(long)]
        finish: bool,
        /// What the new authority is called after
        #[arg(long, value_name = "NAME", default_value = "testudo", conflicts_with = "finish")]
        cluster: String,
    },
}

/// Where.
#[derive(Debug, clap::Args)]
pub struct Place {
    /// The directory of the authority
    #[arg(short, long, value_name = "DIRECTORY", default_value = DIRECTORY)]
    directory: PathBuf,
}

fn days() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=36_500)
}

/// `testudo pki init|issue|rotate`
pub fn run(command: &Command) -> ExitCode {
    match told(command, Moment::now()) {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("testudo: {error}");
            ExitCode::FAILURE
        }
    }
}

fn told(command: &Command, now: Moment) -> Result<String, PkiError> {
    Ok(match command {
        Command::Init { place, cluster, days } => {
            let made = Directory::init(&place.directory, cluster, now, *days)?;
            let (subject, until) = (&made.authority().subject, made.authority().not_after);
            format!(
                "{subject}, valid until {until}\n\n{}  to every member\n{}  stays here: whoever has it \
                 makes members",
                made.bundle().display(),
                made.bundle().with_extension("key").display()
            )
        }
        Command::Issue { names, place, days } => {
            let directory = Directory::open(&place.directory)?;
            let issued = names.iter().map(|name| directory.issue(name, now, *days));
            lines(&issued.collect::<Result<Vec<_>, _>>()?, &directory.bundle())
        }
        Command::Rotate { place, finish: true, .. } => {
            let mut directory = Directory::open(&place.directory)?;
            let dropped = directory.finish()?.join(", ");
            let bundle = directory.bundle();
            format!(
                "dropped: {dropped}\n\nCopy {} to every member: what {dropped} has signed is worth \
                 nothing then.",
                bundle.display()
            )
        }
        Command::Rotate { place, cluster, .. } => {
            let mut directory = Directory::open(&place.directory)?;
            let issued = directory.rotate(cluster, now, [AUTHORITY_DAYS, MEMBER_DAYS])?;
            format!(
                "{}, valid until {}, signs from now on\n{}\n\n1. Copy {bundle} to every member, and wait until \
                 `testudo status` says on each that it trusts 2 authorities.\n2. Copy each member its \
                 certificate and key.\n3. `testudo pki rotate --finish`, and copy {bundle} again.",
                directory.authority().subject,
                directory.authority().not_after,
                lines(&issued, &directory.bundle()),
                bundle = directory.bundle().display(),
            )
        }
    })
}

/// What goes where.
fn lines(issued: &[Issued], bundle: &Path) -> String {
    let mut text = String::new();
    for one in issued {
        text += &format!(
            "\n{}, valid until {}: {} and {}, and {}, to that member",
            one.name,
            one.until,
            one.certificate.display(),
            one.key.display(),
            bundle.display()
        );
    }
    text.trim_start().to_owned()
}
