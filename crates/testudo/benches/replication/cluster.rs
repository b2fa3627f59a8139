//! Two Testudo nodes: one owns every bucket, the other is to know its flows.
//!
//! As all of a daemon's settings are, unless the number of flows asks for more. The node that survives is
//! the one that the two agree may go on alone.

use std::fs;
use std::io::{BufRead, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::generator::{Roll, number};
use crate::measure;
use crate::programs::run;
use crate::rig::{Effective, Known, Rig, Scratch, wait};
use crate::site::{GATEWAYS, SYNC, Site};

const CLUSTER_MAC: [u8; 6] = [0x02, 0x74, 0x65, 0x73, 0, 1];
const BUCKETS: u64 = 256;
/// A quarter of the slots is enough for no flow to be refused.
const SLOTS_PER_FLOW: u32 = 4;
const START: Duration = Duration::from_secs(40);
const TAKEOVER: Duration = Duration::from_secs(20);

/// The two nodes.
pub struct Cluster {
    files: [PathBuf; 2],
    nodes: Vec<Child>,
    _scratch: Scratch,
}

impl Cluster {
    /// Starts both, and waits until the first owns every bucket.
    pub fn start(site: &Site, flows: u32, tls: bool) -> Result<Self> {
        let scratch = Scratch::new("testudo")?;
        let files = GATEWAYS.map(|name| scratch.path(&format!("{name}.toml")));
        let authority = scratch.path("pki");
        let text = authority.display().to_string();
        let testudo = env!("CARGO_BIN_EXE_testudo");
        run(testudo, &["pki", "init", "--directory", &text])?;
        run(testudo, &[&["pki", "issue", "--directory", &text], &GATEWAYS[..]].concat())?;
        let mut cluster = Self { files, nodes: Vec::new(), _scratch: scratch };
        let slots = flows.max(1 << 14).saturating_mul(SLOTS_PER_FLOW).next_power_of_two();
        for (index, name) in GATEWAYS.into_iter().enumerate() {
            fs::write(&cluster.files[index], cluster.configuration(index, slots, &authority, tls))?;
            let log = fs::File::create(cluster.files[index].with_extension("log"))?;
            let mut command = Command::new(env!("CARGO_BIN_EXE_testudo"));
            command.args(["node", "--config"]).arg(&cluster.files[index]);
            command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
            cluster.nodes.push(site.start(name, &mut command)?);
        }
        wait(START, || Ok(cluster.is_ready()))
            .with_context(|| format!("the nodes are not ready: {}", cluster.last_words()))?;
        Ok(cluster)
    }

    fn configuration(&self, index: usize, slots: u32, authority: &Path, tls: bool) -> String {
        let [a, b] = GATEWAYS;
        let file = |extension| self.files[index].with_extension(extension);
        let own = authority.join(GATEWAYS[index]);
        let credentials = format!(
            "[node.tls]\nca = \"{}\"\ncertificate = \"{}\"\nkey = \"{}\"\n",
            authority.join("ca.pem").display(),
            own.with_extension("pem").display(),
            own.with_extension("key").display(),
        );
        let (tls, credentials) = if tls { ("on", credentials) } else { ("off", String::new()) };
        // The first of two members is the one that may go on alone.
        format!(
            "[cluster]\nname = \"replication\"\nsecret = \"000102030405060708090a0b0c0d0e0f\"\n\
             buckets = {BUCKETS}\nmode = \"shared\"\nmac = \"02:74:65:73:00:01\"\nmin_voters = 1\n\
             tls = \"{tls}\"\n\
             [node]\nname = \"{name}\"\ncontrol = \"{control}\"\ntable_entries = {slots}\n\
             state = \"{state}\"\n{credentials}\
             [[member]]\nname = \"{b}\"\nsync = \"{sync_b}:7400\"\nweight = 1\n\
             [[member]]\nname = \"{a}\"\nsync = \"{sync_a}:7400\"\nweight = 1000\n\
             [[interface]]\nname = \"in0\"\naddresses = [\"10.10.0.1\"]\n\
             [[interface]]\nname = \"out0\"\naddresses = [\"10.20.0.1\"]\n\
             [[rule]]\naction = \"accept\"\nprotocol = \"tcp\"\ndestination_ports = \"80\"\n\
             interface = \"in0\"\n",
            name = GATEWAYS[index],
            control = file("ctl").display(),
            state = file("state").display(),
            sync_a = SYNC[0],
            sync_b = SYNC[1],
        )
    }

    fn is_ready(&self) -> bool {
        let number = |status: &Value, at: &str| status.pointer(at).and_then(Value::as_u64);
        let (Ok(a), Ok(b)) = (self.status(0), self.status(1)) else { return false };
        let owned = number(&a, "/buckets/owned") == Some(BUCKETS);
        let free = number(&b, "/buckets/owned") == Some(0);
        let connected = |status: &Value| {
            status.pointer("/peers/0/sync/connected").and_then(Value::as_bool) == Some(true)
        };
        if !owned && number(&b, "/buckets/owned").is_some_and(|owned| owned > 0) {
            // Its weight may still give it a bucket.
            let _ = self.ask(0, &json!({ "cmd": "drain", "node": GATEWAYS[1] }));
        }
        owned && free && connected(&a) && connected(&b)
    }

    fn status(&self, index: usize) -> Result<Value> {
        self.ask(index, &json!({ "cmd": "status" }))
    }

    fn ask(&self, index: usize, question: &Value) -> Result<Value> {
        let mut stream = UnixStream::connect(self.files[index].with_extension("ctl"))?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        writeln!(stream, "{question}")?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line)?;
        let answer: Value = serde_json::from_str(&line)?;
        match answer.get("error") {
            Some(error) => bail!("{} refuses {question}: {error}", GATEWAYS[index]),
            None => Ok(answer),
        }
    }

    fn entries(&self, index: usize, table: &str) -> Result<u64> {
        let status = self.status(index)?;
        let entries = status.pointer(&format!("/{table}/entries")).and_then(Value::as_u64);
        entries.with_context(|| format!("no number of entries in {status}"))
    }

    fn roll(&self, index: usize, count: u32) -> Result<Option<String>> {
        let mut roll = Roll::new(count);
        for bucket in 0..BUCKETS {
            let question =
                json!({ "cmd": "flows", "table": "common", "bucket": bucket, "limit": 100_000 });
            let answer = self.ask(index, &question)?;
            let flows = answer.get("flows").and_then(Value::as_array).context("no flows")?;
            flows.iter().for_each(|flow| roll.note(connection(flow)));
        }
        Ok(roll.complaint())
    }

    fn log(&self, index: usize) -> String {
        fs::read_to_string(self.files[index].with_extension("log")).unwrap_or_default()
    }

    fn last_words(&self) -> String {
        let logs = [self.log(0), self.log(1)];
        let last = |log: &String| log.lines().rev().take(6).collect::<Vec<_>>().join(" | ");
        logs.each_ref().map(last).join(" ‖ ")
    }

    /// A number that the survivor has put beside these words in its log.
    fn logged(&self, words: &str, key: &str) -> Option<u64> {
        let log = self.log(1);
        let line = log.lines().rev().find(|line| line.contains(words))?;
        let plain = without_colours(line);
        let value = plain.split_whitespace().find_map(|word| word.strip_prefix(key))?;
        value.strip_prefix('=')?.parse().ok()
    }
}

/// A log line without the escape sequences that colour it.
fn without_colours(line: &str) -> String {
    let mut plain = String::new();
    let mut inside = false;
    for letter in line.chars() {
        match letter {
            '\u{1b}' => inside = true,
            'm' if inside => inside = false,
            _ if !inside => plain.push(letter),
            _ => {}
        }
    }
    plain
}

/// The connection that a flow is of, if it is established.
fn connection(flow: &Value) -> Option<u32> {
    (flow.get("phase")?.as_str()? == "established").then_some(())?;
    let initiator = flow.get("initiator")?;
    let address: std::net::Ipv4Addr = initiator.get("address")?.as_str()?.parse().ok()?;
    number(address.octets(), initiator.get("port")?.as_u64()?.try_into().ok()?)
}

impl Rig for Cluster {
    fn gateway(&self) -> Result<[[u8; 6]; 2]> {
        Ok([CLUSTER_MAC; 2])
    }

    fn processes(&self) -> [u32; 2] {
        [self.nodes[0].id(), self.nodes[1].id()]
    }

    fn known(&mut self) -> Result<Known> {
        let (a, b) = (self.status(0)?, self.status(1)?);
        // Whoever knows a flow in another state than its owner does not know it yet.
        let same = a.pointer("/common_table/digest") == b.pointer("/common_table/digest");
        let entries = b.pointer("/common_table/entries").and_then(Value::as_u64);
        let entries = entries.context("no number of entries")?;
        Ok(Known { entries: if same { entries } else { entries.saturating_sub(1) }, changes: 0 })
    }

    fn losses(&mut self) -> Result<Vec<(String, u64)>> {
        let status = self.status(0)?;
        let lost = status.pointer("/counters/engine_events_lost").and_then(Value::as_u64);
        let lost = lost.context("no counter of lost events")?;
        Ok(vec![("events that found no room".to_owned(), lost)])
    }

    fn delays_ms(&mut self) -> Result<Option<[f64; 2]>> {
        let status = self.status(0)?;
        let millis = |name: &str| {
            let micros = status.pointer(&format!("/peers/0/sync/{name}")).and_then(Value::as_u64);
            micros
                .map(|micros| micros as f64 / 1e3)
                .with_context(|| format!("no {name} in {status}"))
        };
        Ok(Some([millis("delay_p50_us")?, millis("delay_p99_us")?]))
    }

    fn complaint(&mut self, count: u32) -> Result<Option<String>> {
        let digest = |status: Value| status.pointer("/common_table/digest").cloned();
        let digests = [digest(self.status(0)?), digest(self.status(1)?)];
        if digests[0] != digests[1] {
            return Ok(Some(format!("the digests differ: {digests:?}")));
        }
        for (index, name) in GATEWAYS.into_iter().enumerate() {
            if let Some(complaint) = self.roll(index, count)? {
                return Ok(Some(format!("the common table of {name}: {complaint}")));
            }
        }
        Ok(None)
    }

    fn fail_over(&mut self, count: u32) -> Result<Effective> {
        let busy = measure::process(self.nodes[1].id())?;
        self.nodes[0].kill()?;
        self.nodes[0].wait()?;
        wait(TAKEOVER, || Ok(self.logged("all entries installed", "micros").is_some()))
            .with_context(|| format!("no takeover: {}", self.last_words()))?;
        let busy = measure::process(self.nodes[1].id())?.since(busy);
        let entries = self.entries(1, "node_table")?;
        if entries != u64::from(count) {
            bail!("the survivor's node table has {entries} entries instead of {count}");
        }
        let micros = |words| self.logged(words, "micros").map(Duration::from_micros);
        let all = micros("all entries installed").context("no time of the last entry")?;
        Ok(Effective { flipped: micros("all slots flipped"), all, busy: busy.total })
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            let _ = node.kill();
            let _ = node.wait();
        }
    }
}
