//! Making a cluster, entering it, and its nodes.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::{Change, name, socket, ssh_target, ttl};

/// `weft init`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Example: weft init --name n1 --data /var/lib/weft --bind 10.0.0.1:7443")]
pub(crate) struct Init {
    /// Name of the first node
    #[arg(long, default_value = "n1", value_parser = name)]
    pub(crate) name: String,
    /// Data directory of the node; must not exist or be empty
    /// (default: /var/lib/weft for root, else `~/.local/share/weft/<name>`)
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Where the node's fabric listens, `ip:port`; port 0 lets the system choose
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:7443", value_parser = socket)]
    pub(crate) bind: String,
    /// Where other nodes reach it, if that is not where it listens
    #[arg(long, value_name = "IP:PORT", value_parser = socket)]
    pub(crate) advertise: Option<String>,
    /// Where the node's gateway listens, `ip:port`; port 0 lets the system choose
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:9765", value_parser = socket)]
    pub(crate) gateway: String,
    /// Your name in the audit (default: your login name)
    #[arg(long, value_name = "NAME", value_parser = name)]
    pub(crate) operator: Option<String>,
    /// Print what would be made and make nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// `weft join`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Example: weft join weft1.… --name n2 --data /var/lib/weft --bind 10.0.0.2:7443"
)]
pub(crate) struct Join {
    /// The token that `weft node token` printed; `-`: read it from standard input
    pub(crate) token: String,
    /// Name of this node (default: the token's, else the host name)
    #[arg(long, value_parser = name)]
    pub(crate) name: Option<String>,
    /// Data directory of the node; must not exist or be empty
    /// (default: /var/lib/weft for root, else `~/.local/share/weft/<name>`)
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Where the node's fabric listens, `ip:port`; port 0 lets the system choose
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:7443", value_parser = socket)]
    pub(crate) bind: String,
    /// Where other nodes reach it, if that is not where it listens
    #[arg(long, value_name = "IP:PORT", value_parser = socket)]
    pub(crate) advertise: Option<String>,
    /// Where the node's gateway listens, `ip:port`; port 0 lets the system choose
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:9765", value_parser = socket)]
    pub(crate) gateway: String,
    /// Check the token and the data directory, ask nobody, make nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// `weft login`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Renews by the certificate you have while it is valid, else over the local \
    socket of a node on this machine.\nExample: weft login"
)]
pub(crate) struct Login {
    /// Renew over the local socket even if the certificate is still valid
    #[arg(long)]
    pub(crate) local: bool,
    /// Over the local socket: issue for this operator (default: the first admin)
    #[arg(long, value_name = "NAME")]
    pub(crate) operator: Option<String>,
    /// Print what would be renewed and renew nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// `weft up`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Example: weft up\n         weft up --detach --json && weft down")]
pub(crate) struct Up {
    /// How many nodes, 1 to 9 (default: 3, or those that --dir has already)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=9))]
    pub(crate) nodes: Option<u8>,
    /// Where to keep everything (default: a new temporary directory, removed at the end)
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Leave the cluster running and return; `weft down` stops it
    #[arg(long)]
    pub(crate) detach: bool,
    /// Deploy no example service
    #[arg(long)]
    pub(crate) no_hello: bool,
    /// Print what would be made and make nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// `weft down`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Example: weft down --dir /tmp/weft-up-x7Yq2a --yes")]
pub(crate) struct Down {
    /// The directory that `weft up` printed (default: the last one)
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Print what would be stopped and removed and do nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// `weft node`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Node {
    #[command(subcommand)]
    pub(crate) verb: NodeVerb,
}

/// `weft node …`.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum NodeVerb {
    /// List the nodes
    #[command(after_help = "Example: weft node list --json")]
    List,
    /// Show what is known of a node: its machine, its container engine, its links
    #[command(after_help = "Example: weft node status n2")]
    Status {
        /// Its name or id (default: every node)
        #[arg(value_name = "NODE")]
        target: Option<String>,
    },
    /// Make a join token: good once, shown once
    #[command(after_help = "Example: weft node token --ttl 10m --name n2")]
    Token {
        /// Good for this long, at most 7d
        #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = ttl)]
        ttl: Duration,
        /// Fix the joiner's name
        #[arg(long, value_parser = name)]
        name: Option<String>,
        /// Print what would be made and make nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Print a script that makes a machine with systemd a node, or run it there over ssh
    #[command(after_help = "What it does: a user `weft` of a fixed number, the programs in \
        /usr/local/bin, the join with a token made for it,\na systemd unit that is enabled and \
        started. It can be repeated: what is done is left as it is.\n\
        Examples: weft node provision n2 --bind 10.0.0.2:7443 >n2.sh\n          \
        weft node provision n2 --bind 10.0.0.2:7443 --podman --ssh root@n2.example")]
    Provision(Provision),
    /// Take a node out of the cluster for ever and deny its certificate
    #[command(visible_alias = "rm", after_help = "Example: weft node remove n3 --force --yes")]
    Remove {
        /// Its name or id
        #[arg(value_name = "NODE")]
        target: String,
        /// Also when replicas are placed there
        #[arg(long)]
        force: bool,
        /// Print what would be done and change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Move a node's work to other nodes and place nothing there any more
    #[command(after_help = "Ends with 6 when something stays that cannot move, and names it.\n\
        Example: weft node drain n2 --timeout 10m")]
    Drain {
        /// Its name or id
        #[arg(value_name = "NODE")]
        target: String,
        #[command(flatten)]
        change: Change,
    },
    /// Let a drained node take work again
    #[command(after_help = "Example: weft node undrain n2")]
    Undrain {
        /// Its name or id
        #[arg(value_name = "NODE")]
        target: String,
        /// Print what would be done and change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Give a node labels, or take them away
    #[command(after_help = "Example: weft node label n2 disk=ssd gpu arch-")]
    Label {
        /// Its name or id
        #[arg(value_name = "NODE")]
        target: String,
        /// `key=value` or `key` sets it, `key-` takes it away
        #[arg(value_name = "LABEL", required = true)]
        labels: Vec<LabelChange>,
        /// Print what would be done and change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Drain a node, then take it out of the cluster for ever
    #[command(after_help = "Examples: weft node leave n3 --yes\n          \
        weft node leave    # the attached node")]
    Leave {
        /// Its name or id (default: the attached node)
        #[arg(value_name = "NODE")]
        target: Option<String>,
        /// Also when something there cannot move
        #[arg(long)]
        force: bool,
        /// Print what would be done and change nothing
        #[arg(long)]
        dry_run: bool,
    },
}

/// `weft node provision`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Provision {
    /// Name of the new node
    #[arg(value_parser = name)]
    pub(crate) name: String,
    /// Where its fabric listens, `ip:port`: an address of that machine which the others reach
    #[arg(long, value_name = "IP:PORT", value_parser = socket)]
    pub(crate) bind: String,
    /// Where other nodes reach it, if that is not where it listens
    #[arg(long, value_name = "IP:PORT", value_parser = socket)]
    pub(crate) advertise: Option<String>,
    /// Where its gateway listens, `ip:port`
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:9765", value_parser = socket)]
    pub(crate) gateway: String,
    /// Run it there over ssh, as a login that is root, and send the programs
    #[arg(long, value_name = "USER@HOST", value_parser = ssh_target)]
    pub(crate) ssh: Option<String>,
    /// The login is not root but may `sudo` without a password
    #[arg(long, requires = "ssh")]
    pub(crate) sudo: bool,
    /// For components in containers, with a rootless Podman: the unit for it, numbers for its
    /// users, and lingering
    #[arg(long)]
    pub(crate) podman: bool,
    /// Number of the user `weft` and its group; it must never change afterwards
    #[arg(long, value_name = "UID", default_value_t = 743, value_parser = clap::value_parser!(u32).range(1..=65_000))]
    pub(crate) uid: u32,
    /// With --ssh: directory that has weftd, weft and weft-shim (default: this program's)
    #[arg(long, value_name = "DIR", requires = "ssh")]
    pub(crate) programs: Option<PathBuf>,
    /// The join token is good for this long, at most 7d
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = ttl)]
    pub(crate) ttl: Duration,
    /// Print what would be done; make no token, touch nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// `weft cluster`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Cluster {
    #[command(subcommand)]
    pub(crate) verb: ClusterVerb,
}

/// `weft cluster …`.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum ClusterVerb {
    /// Show leader, term, what is committed, groups, and each node's part, lag and why
    #[command(after_help = "Example: weft cluster status --json")]
    Status,
}

/// What becomes of one label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LabelChange {
    /// `key=value` or `key`.
    Set(String),
    /// The key of `key-`.
    Remove(String),
}

impl LabelChange {
    /// The label's key.
    pub(crate) fn key(&self) -> &str {
        match self {
            Self::Set(label) => label.split_once('=').map_or(label, |(key, _)| key),
            Self::Remove(key) => key,
        }
    }
}

impl std::str::FromStr for LabelChange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let change = match text.strip_suffix('-') {
            Some(key) if !key.contains('=') => Self::Remove(key.into()),
            _ => Self::Set(text.into()),
        };
        let fits = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
        let value = text.split_once('=').map_or("", |(_, value)| value);
        let key = change.key();
        if !key.is_empty() && key.chars().all(fits) && value.chars().all(fits) {
            Ok(change)
        } else {
            Err("expected key=value, key, or key- to take it away, of letters, digits and -_./"
                .into())
        }
    }
}
