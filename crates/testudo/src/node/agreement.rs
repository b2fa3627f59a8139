//! How this node takes part in the agreement, from its configuration.

use std::sync::Arc;
use std::time::Duration;

use testudo_cluster::config::Cluster;
use testudo_cluster::map::Map;
use testudo_cluster::plan::BalanceSettings;
use testudo_coordinator::{Coordinator, Raft, Settings, StartError, Static};

use super::coordination::etcd::{self, Etcd};
use super::coordination::{self, External, Owner, Store, StoreError};
use super::health::Handle;
use super::mailbox::{Mailbox, Sender};
use super::restart::Restarter;
use super::{engine, heartbeat};
use crate::config::{self, Config};

/// The longest message of the coordinators: a map of the largest cluster, and some.
const MAX_MESSAGE: usize = 1 << 20;

/// How long a bucket stays where balancing has moved it.
const REST: Duration = Duration::from_secs(60);

/// How long a leader that etcd does not hear counts as one. It decides who plans, not who forwards.
const ETCD_LEASE: Duration = Duration::from_secs(5);

/// How many commands etcd keeps behind a snapshot.
const ETCD_SNAPSHOT_AFTER: u64 = 256;

/// Why this node can't take part. Nothing was changed but the coordinator's own store.
#[derive(Debug, thiserror::Error)]
pub enum AgreementError {
    /// The log of what was agreed on.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The coordinator.
    #[error("the coordinator can't start: {0}")]
    Start(#[from] StartError),
    /// The way to etcd.
    #[error(transparent)]
    Etcd(#[from] etcd::StartError),
}

fn etcd_settings(cluster: &Cluster, at: &config::etcd::Etcd) -> etcd::Settings {
    etcd::Settings {
        prefix: at.prefix.clone(),
        cluster: cluster.name().to_owned(),
        node: cluster.node(),
        endpoints: at.endpoints.clone(),
        tls: at.ca.clone().map(|ca| {
            let identity = at.identity.as_ref();
            let identity = identity.map(|shown| (shown.cert.clone(), shown.key.clone()));
            etcd::Tls { ca, identity }
        }),
        lease: ETCD_LEASE,
        snapshot_after: ETCD_SNAPSHOT_AFTER,
    }
}

/// A coordinator that is ready to begin.
pub struct Agreement {
    kind: &'static str,
    coordinator: Box<dyn Coordinator<Map> + Send>,
    store: Option<Store>,
}

impl Agreement {
    /// Opens what there is.
    pub fn prepare(config: &Config, cluster: &Arc<Cluster>) -> Result<Self, AgreementError> {
        let map = cluster.first_map();
        Ok(match &config.agreement.coordinator {
            config::agreement::Coordinator::Static => Self {
                kind: "static",
                coordinator: Box::new(Static::new(cluster.node(), map)),
                store: None,
            },
            config::agreement::Coordinator::Embedded => {
                let named = cluster.keys().configuration.tag(&[cluster.name().as_bytes()]);
                let owner = Owner { cluster: named, node: cluster.node() };
                let store = Store::open(&config.node.state, owner)?;
                let stored = store.load()?;
                // Elections are spread by it, not kept secret.
                let seed = cluster.fingerprint();
                let nodes = cluster.nodes().collect();
                let mut settings = Settings::new(cluster.node(), nodes, seed);
                settings.max_message = MAX_MESSAGE;
                let raft = Raft::new(settings, map, stored, super::clock::now())?;
                Self { kind: "embedded", coordinator: Box::new(raft), store: Some(store) }
            }
            config::agreement::Coordinator::Etcd(at) => {
                let map = cluster.first_map();
                let etcd = Etcd::start(etcd_settings(cluster, at), map.clone())?;
                let external = External::new(etcd, cluster.node(), map);
                Self { kind: "etcd", coordinator: Box::new(external), store: None }
            }
        })
    }

    /// What the coordination thread works with.
    pub fn parts(
        self,
        config: &Config,
        cluster: Arc<Cluster>,
        mailbox: Mailbox<coordination::Input>,
        (engine, heartbeats): (Sender<engine::Input>, Sender<heartbeat::Input>),
        (health, restart): (Handle, Restarter),
    ) -> coordination::Parts {
        let config::agreement::Balance { percent, moves_per_minute } = config.agreement.balance;
        coordination::Parts {
            cluster,
            kind: self.kind,
            coordinator: self.coordinator,
            store: self.store,
            balance: BalanceSettings {
                hysteresis_percent: percent.into(),
                rest: REST,
                per_minute: moves_per_minute as usize,
            },
            mailbox,
            engine,
            heartbeats,
            health,
            restart,
        }
    }
}
