//! `testudo rule check`, `show` and `load`: which flows may begin.
//!
//! Exit codes: 0 done, 1 not done, 2 a file that is refused or a command asked wrongly.

use std::fmt::Write;
use std::path::{Path, PathBuf, absolute};
use std::process::ExitCode;

use clap::Subcommand;
use testudo_packet::rule::MAX_RULES;

use crate::config;
use crate::control::protocol::{Loaded, RuleLine, RuleSet, Rules};
use crate::inspect::columns::{Column, or_dash, render};
use crate::inspect::{Connection, InspectError, finish};
use crate::rules::{self, Lines};

/// Check a file of rules, show those in force, put others in force.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Read a file of rules and say what is wrong with it, without a node
    Check {
        /// The file
        file: PathBuf,
        /// The configuration of the node that it is for: its interfaces, services and mode are looked at, too
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// List the lines in force in their order, with how many flows each has let in or refused
    Show {
        #[command(flatten)]
        connection: Connection,
    },
    /// Put the rules of a file in the place of those in force, all at once; established flows stay
    Load {
        /// The file
        file: PathBuf,
        /// End flows that these rules would not let in, by whatever interface
        #[arg(long)]
        flush: bool,
        #[command(flatten)]
        connection: Connection,
    },
}

/// `testudo rule …`
pub fn run(args: &Args) -> ExitCode {
    finish(match &args.command {
        Command::Check { file, config } => check(file, config.as_deref()),
        Command::Show { connection } => show(connection),
        Command::Load { file, flush, connection } => load(file, *flush, connection),
    })
}

fn check(file: &Path, config: Option<&Path>) -> Result<(), InspectError> {
    let config = config.map(config::load_alone).transpose()?;
    let surroundings = config.as_ref().map(config::Config::surroundings).unwrap_or_default();
    let lines = rules::load(file, surroundings)?;
    println!("{}", summary(file, &lines));
    Ok(())
}

fn summary(file: &Path, lines: &Lines) -> String {
    let (count, size) = (lines.0.len(), lines.size());
    let file = file.display();
    let prefixes: usize = lines.1.iter().map(|set| set.listed).sum();
    let sets = match lines.1.len() {
        0 => String::new(),
        count => format!(", {count} sets of {prefixes} prefixes together"),
    };
    format!("{file}: {count} lines, {size} rules of at most {MAX_RULES}{sets}; it can be loaded")
}

fn show(connection: &Connection) -> Result<(), InspectError> {
    let rules = connection.open()?.rules()?;
    connection.print(&rules, render_rules)
}

fn render_rules(rules: &Rules) -> String {
    let mut text = match &rules.file {
        Some(file) => format!("{}, in force on {}\n\n", file.display(), rules.node),
        None => format!("sections [[rule]] of the configuration, in force on {}\n\n", rules.node),
    };
    let columns = [
        Column::Right("LINE"),
        Column::Right("NUMBER"),
        Column::Right("RULES"),
        Column::Right("FLOWS"),
        Column::Left("TEXT"),
    ];
    let row = |line: &RuleLine| {
        let RuleLine { line, number, rules, flows, text } = line;
        [line.to_string(), number.to_string(), rules.to_string(), flows.to_string(), text.clone()]
    };
    text.push_str(&render(columns, &rules.lines.iter().map(row).collect::<Vec<_>>()));
    if !rules.sets.is_empty() {
        text.push('\n');
        text.push_str(&render_sets(&rules.sets));
    }
    text
}

fn render_sets(sets: &[RuleSet]) -> String {
    let columns = [
        Column::Right("LINE"),
        Column::Left("SET"),
        Column::Right("LISTED"),
        Column::Right("PREFIXES"),
        Column::Left("FILE"),
    ];
    let row = |set: &RuleSet| {
        let RuleSet { name, line, listed, prefixes, file } = set;
        let file = or_dash(file.as_ref().map(|file| file.display().to_string()));
        [line.to_string(), format!("@{name}"), listed.to_string(), prefixes.to_string(), file]
    };
    render(columns, &sets.iter().map(row).collect::<Vec<_>>())
}

fn load(file: &Path, flush: bool, connection: &Connection) -> Result<(), InspectError> {
    // The node has another working directory.
    let file = absolute(file)?;
    let loaded = connection.open()?.load(file.clone(), flush)?;
    connection.print(&loaded, |loaded| render_loaded(&file, loaded))
}

fn render_loaded(file: &Path, loaded: &Loaded) -> String {
    let Loaded { node, lines, kept, rules, configured, lasting } = loaded;
    let file = file.display();
    let mut text = format!(
        "{file} is in force on {node}: {lines} lines, {kept} of them as before, {rules} rules\n"
    );
    // Writing to a string can't fail.
    let _ = match configured {
        Some(other) => writeln!(text, "when the daemon starts, {} is read again", other.display()),
        None if *lasting => Ok(()),
        None => writeln!(text, "when the daemon starts, the sections [[rule]] are read again"),
    };
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_shown_with_what_they_have_let_in() {
        let line = |line, number, flows, text: &str| RuleLine {
            line,
            number,
            rules: 2,
            flows,
            text: text.to_owned(),
        };
        let lines = vec![
            line(3, 0, 1200, "proto tcp dport { 22, 443 } accept"),
            line(12, 70, 0, "log \"last\" drop"),
        ];
        let set = |name: &str, line, file: Option<&str>| RuleSet {
            name: name.to_owned(),
            line,
            listed: 100_000,
            prefixes: 87_274,
            file: file.map(PathBuf::from),
        };
        let sets = vec![set("bad", 1, Some("/srv/bad")), set("admins", 2, None)];
        let rules = Rules { node: "n1".into(), file: Some("/etc/rules".into()), lines, sets };
        let text = "\
/etc/rules, in force on n1

LINE  NUMBER  RULES  FLOWS  TEXT
   3       0      2   1200  proto tcp dport { 22, 443 } accept
  12      70      2      0  log \"last\" drop

LINE  SET      LISTED  PREFIXES  FILE
   1  @bad     100000     87274  /srv/bad
   2  @admins  100000     87274  -
";
        assert_eq!(render_rules(&rules), text);
    }

    #[test]
    fn what_a_start_would_bring_back_is_told() {
        let loaded = |configured: Option<&str>, lasting| {
            let configured = configured.map(PathBuf::from);
            let (lines, kept, rules) = (3, 2, 7);
            let loaded = Loaded { node: "n1".into(), lines, kept, rules, configured, lasting };
            render_loaded(Path::new("/a"), &loaded)
        };
        let first = "/a is in force on n1: 3 lines, 2 of them as before, 7 rules\n";
        assert_eq!(loaded(None, true), first);
        let other = format!("{first}when the daemon starts, /b is read again\n");
        assert_eq!(loaded(Some("/b"), false), other);
        let none = format!("{first}when the daemon starts, the sections [[rule]] are read again\n");
        assert_eq!(loaded(None, false), none);
    }
}
