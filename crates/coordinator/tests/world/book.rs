//! A machine that remembers every command: the order in which it took them is its value.

use testudo_coordinator::StateMachine;
use testudo_packet::bucket::NodeId;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Book {
    pub lines: Vec<String>,
    voters: Vec<NodeId>,
}

impl Book {
    pub fn new(voters: &[u8]) -> Self {
        Self { lines: Vec::new(), voters: voters.iter().copied().map(NodeId).collect() }
    }

    fn vote(&mut self, change: &str) -> Result<(), String> {
        for change in change.split(' ') {
            let (sign, node) = change.split_at(1);
            let node = NodeId(node.parse().map_err(|_| format!("no node: {node}"))?);
            match (sign, self.voters.binary_search(&node)) {
                ("+", Err(at)) => self.voters.insert(at, node),
                ("-", Ok(at)) => drop(self.voters.remove(at)),
                (_, found) => return Err(format!("{change}, but it votes: {}", found.is_ok())),
            }
        }
        Ok(())
    }
}

impl StateMachine for Book {
    /// `+3` and `-3` change who votes, `=3` takes a vote if there is one, `!...` is refused; everything
    /// else is written down.
    fn apply(&mut self, command: &[u8]) -> Result<(), String> {
        let line = std::str::from_utf8(command).map_err(|error| error.to_string())?;
        match line.get(..1) {
            Some("!") => return Err(line.to_owned()),
            Some("+" | "-") => self.vote(line)?,
            Some("=") => drop(self.vote(&line.replace('=', "-"))),
            _ => {}
        }
        self.lines.push(line.to_owned());
        Ok(())
    }

    fn voters(&self) -> Vec<NodeId> {
        self.voters.clone()
    }

    fn encode(&self) -> Vec<u8> {
        let voters: Vec<String> = self.voters.iter().map(|node| node.0.to_string()).collect();
        format!("{}\n{}", voters.join(" "), self.lines.join("\n")).into_bytes()
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), String> {
        let text = std::str::from_utf8(snapshot).map_err(|error| error.to_string())?;
        let (voters, lines) = text.split_once('\n').ok_or("one line only")?;
        let numbers = voters.split(' ').map(str::parse).collect::<Result<Vec<u8>, _>>();
        let numbers = numbers.map_err(|error| error.to_string())?;
        self.voters = numbers.into_iter().map(NodeId).collect();
        self.lines = lines.lines().map(str::to_owned).collect();
        Ok(())
    }
}
