//! How MACP sessions are served: `[sessions]` of the node file, overridden by the `MACP_*` variables
//! of the reference runtime (spec macp-sessions §17).

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// `[sessions]` of the node file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sessions {
    /// TCP address of gRPC; `None`: no sessions are served here.
    pub bind: Option<SocketAddr>,
    /// File with static bearer tokens; empty: none.
    pub tokens_file: String,
    /// PEM of the server's certificate chain; empty: plain text.
    pub tls_cert: String,
    /// PEM of its key.
    pub tls_key: String,
    /// Allows plain text, and without tokens lets anybody in.
    pub allow_insecure: bool,
    /// Keeps nothing on disk.
    pub memory_only: bool,
}

/// Everything that says how sessions are served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MacpSettings {
    /// `MACP_BIND_ADDR`.
    pub bind: SocketAddr,
    /// `MACP_TLS_CERT_PATH` and `MACP_TLS_KEY_PATH`.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// `MACP_ALLOW_INSECURE`.
    pub allow_insecure: bool,
    /// Static bearer tokens.
    pub tokens: Option<TokenSource>,
    /// `MACP_ALLOW_DEV_SENDER_HEADER`: trust `x-macp-sender` where nobody is authenticated.
    pub dev_sender_header: bool,
    /// `MACP_MAX_OPEN_SESSIONS`: of each initiator, unless its token says otherwise.
    pub max_open_sessions: Option<u32>,
    /// `MACP_DATA_DIR`; only for a node without a node file.
    pub data_dir: PathBuf,
    /// `MACP_MEMORY_ONLY`.
    pub memory_only: bool,
    /// `MACP_MAX_PAYLOAD_BYTES`.
    pub payload_max: usize,
    /// `MACP_SESSION_START_LIMIT_PER_MINUTE`.
    pub starts_per_minute: u32,
    /// `MACP_MESSAGE_LIMIT_PER_MINUTE`.
    pub messages_per_minute: u32,
    /// `MACP_LIST_SESSIONS_DEFAULT_PAGE_SIZE`.
    pub page_default: u32,
    /// `MACP_LIST_SESSIONS_MAX_PAGE_SIZE`.
    pub page_max: u32,
    /// `MACP_CONCURRENCY_LIMIT_PER_CONNECTION`.
    pub per_connection: u32,
    /// `MACP_MAX_CONCURRENT_STREAMS`.
    pub streams: u32,
    /// `MACP_REQUEST_TIMEOUT_SECS`.
    pub request_timeout: Duration,
    /// `MACP_SHUTDOWN_DRAIN_SECS`.
    pub drain: Duration,
    /// `MACP_RUNTIME_ID`.
    pub runtime_id: String,
}

/// Where static tokens come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenSource {
    /// `MACP_AUTH_TOKENS_JSON`.
    Inline(String),
    /// `MACP_AUTH_TOKENS_FILE`, or `[sessions] tokens_file`.
    File(PathBuf),
}

/// Variables of the reference that would change who may do what, or where data goes, and that this
/// version does not act on: with one of them set nothing is served, rather than something else.
const NOT_YET: [&str; 6] = [
    "MACP_AUTH_ISSUER",
    "MACP_POLICIES_DIR",
    "MACP_POLICIES_DRY_RUN",
    "MACP_RECEIPT_SIGNING_KEY",
    "MACP_RECEIPT_SIGNING_KEY_PATH",
    "MACP_HTTP_BIND_ADDR",
];

/// Where the reference listens.
const BIND: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 50051);

impl MacpSettings {
    /// The file's section with the environment over it; `None`: neither says where to listen.
    ///
    /// # Errors
    /// What is wrong with which variable or key.
    pub fn of_node(
        sessions: &Sessions,
        env: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Option<Self>, String> {
        let env = Env::new(env);
        if sessions.bind.is_none() && env.get("MACP_BIND_ADDR").is_none() {
            return Ok(None);
        }
        Self::read(sessions, &env).map(Some)
    }

    /// What the environment alone says, as for the reference runtime.
    ///
    /// # Errors
    /// What is wrong with which variable.
    pub fn of_environment(env: impl IntoIterator<Item = (String, String)>) -> Result<Self, String> {
        Self::read(&Sessions::default(), &Env::new(env))
    }

    fn read(sessions: &Sessions, env: &Env) -> Result<Self, String> {
        if let Some(name) = NOT_YET.iter().find(|name| env.get(name).is_some()) {
            return Err(format!("{name} is not supported by this version of weft: unset it"));
        }
        if let Some(backend) = env.get("MACP_STORAGE_BACKEND").filter(|backend| *backend != "file")
        {
            return Err(format!(
                "MACP_STORAGE_BACKEND is `{backend}`: sessions are kept in weft's own log; unset it"
            ));
        }
        let bind = match env.get("MACP_BIND_ADDR") {
            Some(text) => text.parse().map_err(|_| {
                format!("MACP_BIND_ADDR is `{text}`, expected an address like 127.0.0.1:50051")
            })?,
            None => sessions.bind.unwrap_or(BIND),
        };
        let path = |name: &str, key: &str| {
            let text = env.get(name).unwrap_or(key);
            (!text.is_empty()).then(|| PathBuf::from(text))
        };
        let tls = match (
            path("MACP_TLS_CERT_PATH", &sessions.tls_cert),
            path("MACP_TLS_KEY_PATH", &sessions.tls_key),
        ) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => {
                return Err("MACP_TLS_CERT_PATH and MACP_TLS_KEY_PATH (`[sessions] tls_cert` and `tls_key`) go together: set both or none".to_owned());
            }
        };
        let tokens = match env.get("MACP_AUTH_TOKENS_JSON") {
            Some(json) => Some(TokenSource::Inline(json.to_owned())),
            None => path("MACP_AUTH_TOKENS_FILE", &sessions.tokens_file).map(TokenSource::File),
        };
        let allow_insecure = env.flag("MACP_ALLOW_INSECURE", sessions.allow_insecure);
        if tokens.is_none() && !allow_insecure {
            return Err("no authentication configured: set MACP_AUTH_TOKENS_FILE or MACP_AUTH_TOKENS_JSON (`[sessions] tokens_file`), or for development MACP_ALLOW_INSECURE=1 (`allow_insecure = true`)".to_owned());
        }
        if tls.is_none() && !allow_insecure {
            return Err("no TLS configured: set MACP_TLS_CERT_PATH and MACP_TLS_KEY_PATH (`[sessions] tls_cert` and `tls_key`), or allow plain text with MACP_ALLOW_INSECURE=1 (`allow_insecure = true`)".to_owned());
        }
        let page_default = env.number("MACP_LIST_SESSIONS_DEFAULT_PAGE_SIZE", 100)?;
        let page_max = env.number("MACP_LIST_SESSIONS_MAX_PAGE_SIZE", 1000)?;
        if page_default > page_max {
            return Err(format!(
                "MACP_LIST_SESSIONS_DEFAULT_PAGE_SIZE is {page_default}, more than MACP_LIST_SESSIONS_MAX_PAGE_SIZE, which is {page_max}"
            ));
        }
        let seconds = |name: &str, default: u32| {
            env.number(name, default).map(|seconds| Duration::from_secs(seconds.into()))
        };
        let payload_max = env.number("MACP_MAX_PAYLOAD_BYTES", 1_048_576)?;
        // An entry of the log holds one payload, and what is agreed on at once is at most 8 MiB.
        if payload_max > 4 << 20 {
            return Err(format!("MACP_MAX_PAYLOAD_BYTES is {payload_max}, at most 4194304"));
        }
        Ok(Self {
            bind,
            tls,
            allow_insecure,
            tokens,
            dev_sender_header: env.flag("MACP_ALLOW_DEV_SENDER_HEADER", false),
            max_open_sessions: match env.get("MACP_MAX_OPEN_SESSIONS") {
                Some(_) => Some(env.number("MACP_MAX_OPEN_SESSIONS", 1)?),
                None => None,
            },
            data_dir: env.get("MACP_DATA_DIR").unwrap_or(".macp-data").into(),
            memory_only: env.flag("MACP_MEMORY_ONLY", sessions.memory_only),
            payload_max: usize::try_from(payload_max).unwrap_or(1_048_576),
            starts_per_minute: env.number("MACP_SESSION_START_LIMIT_PER_MINUTE", 60)?,
            messages_per_minute: env.number("MACP_MESSAGE_LIMIT_PER_MINUTE", 600)?,
            page_default,
            page_max,
            per_connection: env.number("MACP_CONCURRENCY_LIMIT_PER_CONNECTION", 64)?,
            streams: env.number("MACP_MAX_CONCURRENT_STREAMS", 128)?,
            request_timeout: seconds("MACP_REQUEST_TIMEOUT_SECS", 30)?,
            drain: seconds("MACP_SHUTDOWN_DRAIN_SECS", 10)?,
            runtime_id: env.get("MACP_RUNTIME_ID").unwrap_or("macp-runtime").to_owned(),
        })
    }
}

/// Variables that are set; an empty one is not.
struct Env(Vec<(String, String)>);

impl Env {
    fn new(env: impl IntoIterator<Item = (String, String)>) -> Self {
        let macp = |(name, value): &(String, String)| {
            name.starts_with("MACP_") && !value.trim().is_empty()
        };
        Self(env.into_iter().filter(macp).collect())
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    fn flag(&self, name: &str, default: bool) -> bool {
        self.get(name).map_or(default, |value| value == "1" || value == "true")
    }

    fn number(&self, name: &str, default: u32) -> Result<u32, String> {
        let Some(text) = self.get(name) else { return Ok(default) };
        match text.parse::<u32>() {
            Ok(number) if number > 0 => Ok(number),
            _ => Err(format!("{name} is `{text}`, expected a whole number over 0")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn nothing_is_served_unless_an_address_is_said_and_nobody_unless_it_is_said_who() {
        let none = Sessions::default();
        assert_eq!(MacpSettings::of_node(&none, env(&[("MACP_ALLOW_INSECURE", "1")])), Ok(None));
        let error = MacpSettings::of_environment(env(&[])).expect_err("refused");
        assert!(error.contains("no authentication configured"), "{error}");
        let open = MacpSettings::of_environment(env(&[("MACP_ALLOW_INSECURE", "1")]));
        let open = open.expect("development");
        assert_eq!((open.bind, open.payload_max, open.messages_per_minute), (BIND, 1_048_576, 600));
        let plain = env(&[("MACP_AUTH_TOKENS_JSON", "[]")]);
        let error = MacpSettings::of_environment(plain).expect_err("no TLS");
        assert!(error.contains("no TLS configured"), "{error}");
    }

    #[test]
    fn variables_win_over_the_file_and_a_wrong_one_is_named() {
        let file = Sessions {
            bind: "127.0.0.1:1".parse().ok(),
            tokens_file: "/a".into(),
            allow_insecure: true,
            ..Sessions::default()
        };
        let read = |pairs: &[(&str, &str)]| MacpSettings::of_node(&file, env(pairs));
        let settings = read(&[("MACP_AUTH_TOKENS_FILE", "/b"), ("MACP_MAX_OPEN_SESSIONS", "3")]);
        let settings = settings.expect("reads").expect("served");
        assert_eq!(settings.tokens, Some(TokenSource::File("/b".into())));
        assert_eq!((settings.bind.port(), settings.max_open_sessions), (1, Some(3)));
        for (name, value) in [
            ("MACP_BIND_ADDR", "here"),
            ("MACP_MESSAGE_LIMIT_PER_MINUTE", "0"),
            ("MACP_REQUEST_TIMEOUT_SECS", "soon"),
            ("MACP_LIST_SESSIONS_DEFAULT_PAGE_SIZE", "2000"),
            ("MACP_AUTH_ISSUER", "https://issuer"),
            ("MACP_STORAGE_BACKEND", "redis"),
            ("MACP_MAX_PAYLOAD_BYTES", "99999999"),
            ("MACP_TLS_CERT_PATH", "/only/one"),
        ] {
            let error = read(&[(name, value)]).expect_err(name);
            assert!(error.contains(name), "{error}");
        }
    }
}
