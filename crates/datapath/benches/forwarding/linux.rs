//! A Linux gateway: nftables with connection tracking.

use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::measure;
use crate::processors;
use crate::site::{GATEWAY_LINKS, OUTSIDE, Site};

/// The kernel's limits are one for all namespaces, and come back to what they were.
pub struct Limits(Vec<(&'static str, String)>);

/// Room for all flows, and a hash table that is not too small for them; a sum that is wrong is not looked for.
const LIMITS: [(&str, &str); 2] = [
    ("/proc/sys/net/netfilter/nf_conntrack_max", "4194304"),
    ("/sys/module/nf_conntrack/parameters/hashsize", "1048576"),
];

impl Limits {
    /// Raises them.
    pub fn raise() -> Result<Self> {
        let mut before = Vec::new();
        for (path, value) in LIMITS {
            let seen = std::fs::read_to_string(path).with_context(|| format!("read {path}"))?;
            std::fs::write(path, value).with_context(|| format!("write {path}"))?;
            before.push((path, seen.trim().to_owned()));
        }
        Ok(Self(before))
    }
}

impl Drop for Limits {
    fn drop(&mut self) {
        for (path, value) in &self.0 {
            if let Err(error) = std::fs::write(path, value) {
                eprintln!("{path} is not {value} again: {error}");
            }
        }
    }
}

/// The gateway, while its rules are in force.
pub struct Linux<'a> {
    site: &'a Site,
}

impl<'a> Linux<'a> {
    /// Puts so many rules in force, of which the last lets flows begin; with translation or without.
    pub fn start(site: &'a Site, rules: u32, snat: bool) -> Result<Self> {
        let mut text = String::from(
            "table inet filter {\n chain forward {\n  type filter hook forward priority 0; policy drop;\n  \
             ct state established,related accept\n",
        );
        for number in 1..rules {
            let [_, _, high, low] = number.to_be_bytes();
            text += &format!("  ip saddr 192.0.{high}.{low} drop\n");
        }
        text += "  ct state new accept\n }\n}\n";
        if snat {
            let [a, b, c, d] = OUTSIDE;
            text += &format!(
                "table ip nat {{\n chain postrouting {{\n  type nat hook postrouting priority 100;\n  \
                 oifname \"{}\" snat to {a}.{b}.{c}.{d}\n }}\n}}\n",
                GATEWAY_LINKS[1]
            );
        }
        let file = std::env::temp_dir().join(format!("forwarding-{}.nft", std::process::id()));
        std::fs::write(&file, text).context("write the rules")?;
        let gateway = site.namespace("gateway")?;
        let path = file.display().to_string();
        let loaded = site.inside("gateway", "nft", &["-f", &path]);
        std::fs::remove_file(&file).context("remove the rules")?;
        loaded?;
        for (key, value) in [
            ("nf_conntrack_udp_timeout", "600"),
            ("nf_conntrack_udp_timeout_stream", "600"),
            ("nf_conntrack_checksum", "0"),
        ] {
            gateway.set(&format!("netfilter/{key}"), value)?;
        }
        Ok(Self { site })
    }

    /// How many flows it knows.
    pub fn flows(&self) -> Result<u64> {
        let text = self.site.inside("gateway", "conntrack", &["-C"])?;
        text.trim().parse().with_context(|| format!("conntrack -C says {text:?}"))
    }

    /// Forgets all flows.
    pub fn forget(&self) -> Result<()> {
        self.site.inside("gateway", "conntrack", &["-F"])?;
        ensure!(self.flows()? == 0, "flows are left");
        Ok(())
    }
}

impl Drop for Linux<'_> {
    fn drop(&mut self) {
        let forgotten = self.forget();
        if let Err(error) =
            forgotten.and_then(|()| self.site.inside("gateway", "nft", &["flush", "ruleset"]))
        {
            eprintln!("rules are left: {error:#}");
        }
    }
}

/// Somebody who reads the events of new flows.
pub struct Listener(Child);

impl Listener {
    /// Starts to listen.
    pub fn start(site: &Site) -> Result<Self> {
        let mut command = Command::new("conntrack");
        command.args(["-E", "-e", "NEW", "-b", "67108864"]).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let start = || {
            processors::keep_to(processors::daemons())?;
            command.spawn().context("start conntrack -E")
        };
        let child = site.namespace("gateway")?.run(start)??;
        std::thread::sleep(std::time::Duration::from_millis(300));
        Ok(Self(child))
    }

    /// The processor time that it has taken.
    pub fn busy(&self) -> Result<std::time::Duration> {
        Ok(measure::process(self.0.id())?.total)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
