//! Blocking calls to etcd's JSON gateway.
//!
//! Each call goes to one member, in the order of the settings beginning with the last that answered;
//! the next one is tried when one can't be reached. A call that was sent and not answered is not
//! repeated by itself: it may have taken effect.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;
use serde_json::{Value, json};
use ureq::Agent;
use ureq::tls::TlsConfig;

use super::CALL;

/// The longest answer: the entries of one read, in base64.
const MAX_ANSWER: u64 = 64 << 20;

/// Why a call has no result.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// No member can be reached; nothing has happened.
    #[error("no member of etcd can be reached: {0}")]
    Unreachable(String),
    /// The call may have taken effect or not.
    #[error("etcd did not answer: {0}")]
    Unanswered(String),
    /// etcd refuses; nothing has happened.
    #[error("etcd refuses: {0}")]
    Refused(String),
    /// Not an answer of etcd 3.4 or later.
    #[error("{0} is no answer of etcd")]
    Strange(String),
}

/// A key with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    pub key: Vec<u8>,
    pub value: Vec<u8>,
    pub mod_revision: u64,
    /// The lease that it goes with; empty if with none.
    pub lease: String,
}

/// What a transaction came to.
#[derive(Debug)]
pub struct Outcome {
    pub succeeded: bool,
    /// The pairs that each read found, in the order of the operations; nothing for a write.
    pub reads: Vec<Vec<Pair>>,
}

pub struct Client {
    agent: Agent,
    endpoints: Vec<String>,
    /// The member that answered last.
    current: usize,
}

/// An agent that tells the status of an answer as a value, and leaves proxies alone.
pub fn agent(tls: Option<TlsConfig>, whole: Option<Duration>, per_read: Duration) -> Agent {
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .proxy(None)
        .tls_config(tls.unwrap_or_default())
        .timeout_connect(Some(CALL / 2))
        .timeout_global(whole)
        .timeout_per_read(Some(per_read))
        .build();
    Agent::new_with_config(config)
}

impl Client {
    pub fn new(endpoints: Vec<String>, tls: Option<TlsConfig>) -> Self {
        Self { agent: agent(tls, Some(CALL), CALL), endpoints, current: 0 }
    }

    /// Calls a method of the gateway.
    fn call(&mut self, method: &str, body: &Value) -> Result<Value, CallError> {
        let body = body.to_string();
        let mut refusals = Vec::new();
        for _ in 0..self.endpoints.len() {
            let url = format!("{}/v3/{method}", self.endpoints[self.current]);
            match self.agent.post(&url).send(&body) {
                Ok(answer) => return read(answer),
                Err(error) if was_not_sent(&error) => refusals.push(format!("{url}: {error}")),
                Err(error) => {
                    self.current = (self.current + 1) % self.endpoints.len();
                    return Err(CallError::Unanswered(format!("{url}: {error}")));
                }
            }
            self.current = (self.current + 1) % self.endpoints.len();
        }
        Err(CallError::Unreachable(refusals.join("; ")))
    }

    /// If all comparisons hold, does the one thing, else the other, at one instant.
    pub fn transact(
        &mut self,
        compare: &[Value],
        then: &[Value],
        otherwise: &[Value],
    ) -> Result<Outcome, CallError> {
        let body = json!({ "compare": compare, "success": then, "failure": otherwise });
        let answer = self.call("kv/txn", &body)?;
        let succeeded = answer["succeeded"].as_bool().unwrap_or(false);
        let responses = answer["responses"].as_array().map_or(&[][..], Vec::as_slice);
        let reads = responses.iter().map(pairs).collect::<Result<_, _>>()?;
        Ok(Outcome { succeeded, reads })
    }

    /// Makes a lease; gives its number.
    pub fn grant(&mut self, lease: Duration) -> Result<String, CallError> {
        let answer = self.call("lease/grant", &json!({ "TTL": lease.as_secs().to_string() }))?;
        let number = answer["ID"].as_str().map(str::to_owned);
        number.ok_or_else(|| CallError::Strange(answer.to_string()))
    }

    /// Says that the node still lives; tells whether the lease does.
    pub fn keep_alive(&mut self, lease: &str) -> Result<bool, CallError> {
        let answer = self.call("lease/keepalive", &json!({ "ID": lease }))?;
        let left = answer["result"]["TTL"].as_str().and_then(|left| left.parse::<u64>().ok());
        Ok(left.is_some_and(|left| left > 0))
    }

    /// Gives a lease back, and with it all keys on it.
    pub fn revoke(&mut self, lease: &str) -> Result<(), CallError> {
        self.call("lease/revoke", &json!({ "ID": lease })).map(|_| ())
    }
}

fn was_not_sent(error: &ureq::Error) -> bool {
    match error {
        ureq::Error::Io(error) => error.kind() == std::io::ErrorKind::ConnectionRefused,
        ureq::Error::Timeout(ureq::Timeout::Connect | ureq::Timeout::Resolve) => true,
        ureq::Error::ConnectionFailed | ureq::Error::HostNotFound => true,
        _ => false,
    }
}

fn read(answer: ureq::http::Response<ureq::Body>) -> Result<Value, CallError> {
    let status = answer.status();
    let body = answer.into_body().into_with_config().limit(MAX_ANSWER).read_to_vec();
    let body = body.map_err(|error| CallError::Unanswered(error.to_string()))?;
    let told = || String::from_utf8_lossy(&body).chars().take(200).collect::<String>();
    let value: Value = match serde_json::from_slice(&body) {
        Ok(value) => value,
        Err(_) => return Err(CallError::Strange(format!("{status} {}", told()))),
    };
    if status.is_success() && value.get("error").is_none() {
        return Ok(value);
    }
    // Codes of gRPC: what etcd could not do in time may still happen.
    match value["code"].as_u64() {
        Some(3 | 5 | 7 | 8 | 9 | 11 | 12 | 16) => Err(CallError::Refused(told())),
        _ => Err(CallError::Unanswered(told())),
    }
}

#[derive(Deserialize)]
struct RawPair {
    key: String,
    #[serde(default)]
    value: String,
    mod_revision: String,
    #[serde(default)]
    lease: String,
}

/// The pairs in one part of a transaction's answer.
fn pairs(response: &Value) -> Result<Vec<Pair>, CallError> {
    let Some(found) = response.get("response_range").and_then(|range| range.get("kvs")) else {
        return Ok(Vec::new());
    };
    let strange = || CallError::Strange(found.to_string().chars().take(200).collect());
    let raw = Vec::<RawPair>::deserialize(found).map_err(|_| strange())?;
    let decode = |pair: RawPair| {
        let key = BASE64.decode(&pair.key).ok()?;
        let value = BASE64.decode(&pair.value).ok()?;
        Some(Pair { key, value, mod_revision: pair.mod_revision.parse().ok()?, lease: pair.lease })
    };
    raw.into_iter().map(|pair| decode(pair).ok_or_else(strange)).collect()
}

/// Holds if a key is absent (or there).
pub fn is_there(key: &str, there: bool) -> Value {
    let result = if there { "GREATER" } else { "EQUAL" };
    let key = BASE64.encode(key);
    json!({ "key": key, "target": "CREATE", "result": result, "create_revision": "0" })
}

/// Holds if a key was last changed then; 0 if it is absent.
pub fn is_of(key: &str, revision: u64) -> Value {
    let (key, revision) = (BASE64.encode(key), revision.to_string());
    json!({ "key": key, "target": "MOD", "result": "EQUAL", "mod_revision": revision })
}

/// Sets a key, which goes with a lease if there is one.
pub fn put(key: &str, value: &[u8], lease: Option<&str>) -> Value {
    let (key, value) = (BASE64.encode(key), BASE64.encode(value));
    json!({ "request_put": { "key": key, "value": value, "lease": lease.unwrap_or("0") } })
}

/// Reads a key.
pub fn get(key: &str) -> Value {
    json!({ "request_range": { "key": BASE64.encode(key) } })
}

/// Reads the first keys of a range.
pub fn get_range(from: &str, end: &str, limit: u64) -> Value {
    let (key, end, limit) = (BASE64.encode(from), BASE64.encode(end), limit.to_string());
    json!({ "request_range": { "key": key, "range_end": end, "limit": limit } })
}

/// Removes a range.
pub fn delete_range(from: &str, end: &str) -> Value {
    let (key, end) = (BASE64.encode(from), BASE64.encode(end));
    json!({ "request_delete_range": { "key": key, "range_end": end } })
}
