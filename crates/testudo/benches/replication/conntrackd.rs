//! Two Linux gateways with nftables' connection tracking, kept equal by conntrackd.
//!
//! Tuned as its manual says for high rates: buffers that hold seconds of events, hash tables as large as
//! the entries ask for, no file, no checksum on a link that has its own, and on request only established
//! connections, which spares it two thirds of the messages of a handshake.
//!
//! The size of the kernel's table can only be set for the whole machine; it is put back at the end.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::generator::{Roll, number};
use crate::measure;
use crate::rig::{Effective, Known, Rig, Scratch, wait};
use crate::site::{GATEWAY_LINKS, GATEWAYS, SYNC, SYNC_LINK, Site};

/// What the gateways let through: what a stateful firewall does.
const RULES: &str = "\
table ip replication {
    chain forward {
        type filter hook forward priority 0; policy drop;
        ct state established,related accept
        iifname \"in0\" ct state new tcp dport 80 accept
    }
}
";
const SYSCTLS: &str = "/proc/sys/net/netfilter";
/// Entries for both gateways, in one table of the kernel's.
const MOST_ENTRIES: u32 = 1 << 22;
const KERNEL_BUCKETS: u32 = 1 << 21;

/// How conntrackd is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Reliable: what is lost on the way is sent again.
    Ftfw,
    /// Not reliable.
    NoTrack,
    /// Reliable, and told of established connections only.
    FtfwEstablished,
}

impl Mode {
    fn section(self) -> &'static str {
        match self {
            Mode::Ftfw | Mode::FtfwEstablished => {
                "Mode FTFW {\n ResendQueueSize 1048576\n CommitTimeout 600\n PurgeTimeout 600\n \
                 ACKWindowSize 300\n DisableExternalCache off\n }"
            }
            Mode::NoTrack => {
                "Mode NOTRACK {\n CommitTimeout 600\n PurgeTimeout 600\n DisableInternalCache off\n \
                 DisableExternalCache off\n }"
            }
        }
    }

    fn filter(self) -> &'static str {
        match self {
            Mode::Ftfw | Mode::NoTrack => "Protocol Accept { TCP }",
            Mode::FtfwEstablished => {
                "Protocol Accept { TCP }\n State Accept { ESTABLISHED CLOSED TIME_WAIT CLOSE_WAIT for TCP }"
            }
        }
    }
}

/// The kernel's limits, as they were before.
pub struct Limits {
    before: Vec<(&'static str, String)>,
}

impl Limits {
    /// Makes room for the entries of both gateways.
    pub fn raise() -> Result<Self> {
        let mut limits = Self { before: Vec::new() };
        let wanted = [("nf_conntrack_buckets", KERNEL_BUCKETS), ("nf_conntrack_max", MOST_ENTRIES)];
        for (name, value) in wanted {
            let path = format!("{SYSCTLS}/{name}");
            let before = fs::read_to_string(&path)
                .with_context(|| format!("read {path}: is connection tracking in this kernel?"))?;
            fs::write(&path, value.to_string()).with_context(|| format!("write {path}"))?;
            limits.before.push((name, before.trim().to_owned()));
        }
        Ok(limits)
    }
}

impl Drop for Limits {
    fn drop(&mut self) {
        for (name, value) in &self.before {
            if let Err(error) = fs::write(format!("{SYSCTLS}/{name}"), value) {
                eprintln!("{name} could not be set back to {value}: {error}");
            }
        }
    }
}

/// The two gateways.
pub struct Conntrackd<'a> {
    site: &'a Site,
    mode: Mode,
    files: [PathBuf; 2],
    daemons: Vec<Child>,
    _scratch: Scratch,
}

impl<'a> Conntrackd<'a> {
    /// Starts both.
    pub fn start(site: &'a Site, mode: Mode) -> Result<Self> {
        let scratch = Scratch::new("conntrackd")?;
        let rules = scratch.path("rules.nft");
        fs::write(&rules, RULES)?;
        let files = GATEWAYS.map(|gateway| scratch.path(&format!("{gateway}.conf")));
        let mut rig = Self { site, mode, files, daemons: Vec::new(), _scratch: scratch };
        for (index, gateway) in GATEWAYS.into_iter().enumerate() {
            let namespace = site.namespace(gateway)?;
            site.inside(gateway, "nft", &["flush", "ruleset"])?;
            site.inside(gateway, "nft", &["-f", &rules.display().to_string()])?;
            // Hardware checks them where there is any; here each packet would cost a sum.
            namespace.set("netfilter/nf_conntrack_checksum", "0")?;
            site.inside(gateway, "conntrack", &["-F"])?;
            fs::write(&rig.files[index], rig.configuration(index))?;
            let log = fs::File::create(rig.files[index].with_extension("out"))?;
            let mut command = Command::new("conntrackd");
            command.arg("-C").arg(&rig.files[index]);
            command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
            rig.daemons.push(site.start(gateway, &mut command)?);
        }
        for index in 0..GATEWAYS.len() {
            wait(Duration::from_secs(10), || Ok(rig.ask(index, &["-s"]).is_ok()))
                .with_context(|| format!("conntrackd does not answer: {}", rig.log(index)))?;
        }
        Ok(rig)
    }

    fn configuration(&self, index: usize) -> String {
        let (own, other) = (SYNC[index], SYNC[1 - index]);
        let file = |extension| self.files[index].with_extension(extension);
        let (socket, lock) = (file("ctl"), file("lock"));
        format!(
            "Sync {{\n{}\nUDP {{\n IPv4_address {own}\n IPv4_Destination_Address {other}\n \
             Port 3780\n Interface {SYNC_LINK}\n SndSocketBuffer 134217728\n \
             RcvSocketBuffer 134217728\n Checksum off\n}}\n}}\n\
             General {{\n HashSize 1048576\n HashLimit 8388608\n Syslog off\n LogFile off\n \
             LockFile {}\n UNIX {{\n Path {}\n}}\n NetlinkBufferSize 268435456\n \
             NetlinkBufferSizeMaxGrowth 536870912\n NetlinkOverrunResync on\n \
             Filter From Kernelspace {{\n {}\n }}\n}}\n",
            self.mode.section(),
            lock.display(),
            socket.display(),
            self.mode.filter(),
        )
    }

    fn ask(&self, index: usize, words: &[&str]) -> Result<String> {
        let file = self.files[index].display().to_string();
        let arguments = [&["-C", &file], words].concat();
        self.site.inside(GATEWAYS[index], "conntrackd", &arguments)
    }

    fn log(&self, index: usize) -> String {
        fs::read_to_string(self.files[index].with_extension("out")).unwrap_or_default()
    }

    fn roll(&self, text: &str, count: u32) -> Option<String> {
        let mut roll = Roll::new(count);
        let entries = text.lines().filter(|line| line.contains("src="));
        entries.for_each(|line| roll.note(connection(line)));
        roll.complaint()
    }

    /// How many entries a gateway's kernel has.
    fn in_kernel(&self, gateway: &str) -> Result<u64> {
        let read = || fs::read_to_string(format!("{SYSCTLS}/nf_conntrack_count"));
        let text = self.site.namespace(gateway)?.run(read)??;
        Ok(text.trim().parse()?)
    }
}

/// The connection that a line of a table speaks of, if it is established.
fn connection(line: &str) -> Option<u32> {
    let word = |key: &str| line.split_whitespace().find_map(|word| word.strip_prefix(key));
    line.contains("ESTABLISHED").then_some(())?;
    let address: std::net::Ipv4Addr = word("src=")?.parse().ok()?;
    number(address.octets(), word("sport=")?.parse().ok()?)
}

impl Rig for Conntrackd<'_> {
    fn gateway(&self) -> Result<[[u8; 6]; 2]> {
        let [inside, outside] = GATEWAY_LINKS.map(|link| self.site.mac(GATEWAYS[0], link));
        Ok([inside?, outside?])
    }

    fn processes(&self) -> [u32; 2] {
        [self.daemons[0].id(), self.daemons[1].id()]
    }

    fn known(&mut self) -> Result<Known> {
        let text = self.ask(1, &["-s"])?;
        let (_, external) = text.split_once("cache external:").context("no external cache")?;
        let number = |name: &str| {
            let line = external.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            let word = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
            word.with_context(|| format!("no {name} in conntrackd's statistics: {text}"))
        };
        let changes = number("connections created")? + number("connections updated")?;
        Ok(Known { entries: number("current active connections")?, changes })
    }

    fn losses(&mut self) -> Result<Vec<(String, u64)>> {
        let of = |text: &str, name: &str| {
            let values =
                text.lines().filter_map(|line| line.trim().strip_prefix(name)?.strip_prefix(':'));
            values.filter_map(|value| value.trim().parse::<u64>().ok()).sum()
        };
        let overruns = of(&self.ask(0, &["-s", "runtime"])?, "netlink overrun");
        let lost = of(&self.ask(1, &["-s", "network"])?, "Packets lost");
        Ok(vec![
            ("overruns of the kernel's events".to_owned(), overruns),
            ("messages lost on the way".to_owned(), lost),
        ])
    }

    fn complaint(&mut self, count: u32) -> Result<Option<String>> {
        let kernel = self.site.inside(GATEWAYS[0], "conntrack", &["-L", "-p", "tcp"])?;
        if let Some(complaint) = self.roll(&kernel, count) {
            return Ok(Some(format!("the kernel's table of a: {complaint}")));
        }
        let external = self.ask(1, &["-e"])?;
        Ok(self.roll(&external, count).map(|c| format!("the external cache of b: {c}")))
    }

    fn fail_over(&mut self, count: u32) -> Result<Effective> {
        self.daemons[0].kill()?;
        self.daemons[0].wait()?;
        let busy = measure::process(self.daemons[1].id())?;
        let begun = Instant::now();
        self.ask(1, &["-c"])?;
        let said = begun.elapsed();
        let every = || Ok(self.in_kernel(GATEWAYS[1])? >= u64::from(count));
        wait(Duration::from_secs(60), every).context("entries are missing after the commit")?;
        let all = begun.elapsed();
        let busy = measure::process(self.daemons[1].id())?.since(busy);
        let kernel = self.site.inside(GATEWAYS[1], "conntrack", &["-L", "-p", "tcp"])?;
        if let Some(complaint) = self.roll(&kernel, count) {
            bail!("the kernel's table of b after the commit: {complaint}");
        }
        Ok(Effective { flipped: None, all: said.max(all), busy: busy.total })
    }
}

impl Drop for Conntrackd<'_> {
    fn drop(&mut self) {
        for daemon in &mut self.daemons {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        for gateway in GATEWAYS {
            let _ = self.site.inside(gateway, "nft", &["flush", "ruleset"]);
            let _ = self.site.inside(gateway, "conntrack", &["-F"]);
        }
    }
}
