//! What an operator would type: the commands of a running node.
//!
//! Invariant: the lab changes a cluster only by the commands that an operator has, run as an operator
//! runs them, so a scenario shows what they do and not what something behind them does.

use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::state::Node;

/// Run `testudo ARGUMENTS` against the node; gives what it printed.
pub fn tell(node: &Node, arguments: &[&str]) -> Result<String> {
    let line = arguments.join(" ");
    let output = Command::new("/proc/self/exe")
        .args(arguments)
        .arg("--socket")
        .arg(&node.control)
        .output()
        .with_context(|| format!("run `testudo {line}`"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("`testudo {line}` on {} ended with {}: {}", node.name, output.status, said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A number of the node's status, by its path: `/takeover/first_packet_micros`. Nothing if the node
/// does not answer or says nothing of the kind.
pub fn number(node: &Node, path: &str) -> Option<f64> {
    let text = tell(node, &["status", "-j"]).ok()?;
    serde_json::from_str::<Value>(&text).ok()?.pointer(path)?.as_f64()
}
