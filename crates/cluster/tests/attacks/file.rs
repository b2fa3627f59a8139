//! How an attack is written down.
//!
//! ```text
//! # prose: who does what, and how the bytes were made
//! on a new stream            where the bytes go; see `Place`
//! 54 45 53 …                 bytes in hexadecimal; comments behind `#`
//! 30 00 61*48  times 32769   one byte 48 times; the whole line as often as that
//! closed after each byte     how they are sent, if not as a whole; see `Delivery`
//! ! the peer could not …     the error that the victim's session ends with
//! + older 3                  by how much a counter rises; those that are not named stay
//! ```

use std::collections::BTreeMap;
use std::fmt::Write;

/// Where the bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Somebody opens a stream to the victim, and shows nothing below (`tls = "off"`).
    New,
    /// The same, by somebody with the certificate of node 2.
    Vouched,
    /// The victim has dialled node 0, and somebody else is there.
    Dialled,
    /// The stream with node 2, which is open and idle.
    Peer,
}

/// How the bytes are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// All of them at once.
    Whole,
    /// For each length less than the whole, from one on: so many, and then the stream ends.
    Cut,
    /// All of them, and then the stream ends.
    Closed,
    /// All of them, and then nothing for three seconds.
    Silent,
}

const PLACES: [(&str, Place); 4] = [
    ("on a new stream", Place::New),
    ("on a new stream, with the certificate of node 2", Place::Vouched),
    ("on a stream that the victim has dialled to node 0", Place::Dialled),
    ("on the stream of node 2", Place::Peer),
];

const DELIVERIES: [(&str, Delivery); 4] = [
    ("at once", Delivery::Whole),
    ("closed after each byte but the last", Delivery::Cut),
    ("then closed", Delivery::Closed),
    ("then nothing for three seconds", Delivery::Silent),
];

/// An attack, as it is replayed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attack {
    pub place: Place,
    pub delivery: Delivery,
    pub bytes: Vec<u8>,
    pub error: Option<String>,
    pub counters: BTreeMap<String, u64>,
}

impl Attack {
    pub fn parse(text: &str) -> Self {
        let mut attack = Self {
            place: Place::New,
            delivery: Delivery::Whole,
            bytes: Vec::new(),
            error: None,
            counters: BTreeMap::new(),
        };
        for line in text.lines() {
            if let Some(error) = line.strip_prefix("! ") {
                attack.error = Some(error.to_owned());
            } else if let Some(counter) = line.strip_prefix("+ ") {
                let (name, count) = counter.split_once(' ').expect("a counter and its rise");
                attack.counters.insert(name.to_owned(), count.parse().expect("a number"));
            } else if let Some((_, place)) = PLACES.iter().find(|(text, _)| *text == line) {
                attack.place = *place;
            } else if let Some((_, delivery)) = DELIVERIES.iter().find(|(text, _)| *text == line) {
                attack.delivery = *delivery;
            } else {
                attack.bytes.extend(bytes(line));
            }
        }
        attack
    }
}

/// The bytes of a line.
fn bytes(line: &str) -> Vec<u8> {
    let line = line.split('#').next().unwrap_or_default();
    let (line, times) = match line.split_once(" times ") {
        Some((line, times)) => (line, times.trim().parse().expect("a number of times")),
        None => (line, 1),
    };
    let mut bytes = Vec::new();
    for word in line.split_whitespace() {
        let (byte, count) = word.split_once('*').unwrap_or((word, "1"));
        let byte = u8::from_str_radix(byte, 16).unwrap_or_else(|_| panic!("{word} is no byte"));
        bytes.extend(std::iter::repeat_n(byte, count.parse().expect("a number of bytes")));
    }
    bytes.repeat(times)
}

/// An attack, as it is recorded.
#[derive(Clone, Debug)]
pub struct Recording {
    pub name: &'static str,
    /// Who does what, what for, and how the bytes were made.
    pub prose: &'static str,
    pub place: Place,
    pub delivery: Delivery,
    pub parts: Vec<Part>,
    pub error: Option<String>,
    pub counters: &'static [(&'static str, u64)],
}

/// Bytes that have a meaning.
#[derive(Clone, Debug)]
pub struct Part {
    pub meaning: String,
    pub bytes: Vec<u8>,
    pub times: usize,
}

const WIDTH: usize = 24;

impl Recording {
    /// The file.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for line in self.prose.lines() {
            let _ = writeln!(text, "# {}", line.trim());
        }
        let place = PLACES.iter().find(|(_, place)| *place == self.place);
        let _ = writeln!(text, "\n{}", place.expect("each has its words").0);
        for Part { meaning, bytes, times } in &self.parts {
            let _ = writeln!(text, "\n# {meaning}");
            let times = if *times == 1 { String::new() } else { format!("  times {times}") };
            assert!(times.is_empty() || bytes.len() <= 64, "one line, if it is repeated");
            let width = if times.is_empty() { WIDTH } else { bytes.len() };
            for line in bytes.chunks(width.max(1)) {
                let _ = writeln!(text, "{}{times}", hexadecimal(line));
            }
        }
        text.push('\n');
        let delivery = DELIVERIES.iter().find(|(_, delivery)| *delivery == self.delivery);
        let _ = writeln!(text, "{}", delivery.expect("each has its words").0);
        if let Some(error) = &self.error {
            let _ = writeln!(text, "! {error}");
        }
        for (name, count) in self.counters {
            let _ = writeln!(text, "+ {name} {count}");
        }
        text
    }
}

/// Bytes in hexadecimal; long rows of one byte in short.
fn hexadecimal(bytes: &[u8]) -> String {
    let run = |run: &[u8]| match run.len() {
        0..=8 => run.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" "),
        count => format!("{:02x}*{count}", run[0]),
    };
    bytes.chunk_by(|a, b| a == b).map(run).collect::<Vec<_>>().join(" ")
}
