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
    /// Whose JSON Web Tokens are taken; empty: nobody's.
    pub jwt_issuer: String,
    /// For whom they must be; empty: the default.
    pub jwt_audience: String,
    /// File with the issuer's keys; empty: elsewhere.
    pub jwks_file: String,
    /// Address of the issuer's keys; empty: elsewhere.
    pub jwks_url: String,
    /// PEM of the server's certificate chain; empty: plain text.
    pub tls_cert: String,
    /// PEM of its key.
    pub tls_key: String,
    /// Clients may have certificates of the cluster.
    pub client_certificates: bool,
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
    /// `[sessions] client_auth`: clients may have certificates of the cluster.
    pub client_certificates: bool,
    /// `MACP_ALLOW_INSECURE`.
    pub allow_insecure: bool,
    /// Static bearer tokens.
    pub tokens: Option<TokenSource>,
    /// JSON Web Tokens.
    pub jwt: Option<JwtSettings>,
    /// `MACP_ALLOW_DEV_SENDER_HEADER`: trust `x-macp-sender` where nobody is authenticated.
    pub dev_sender_header: bool,
    /// `MACP_MAX_OPEN_SESSIONS`: of each initiator, unless its token says otherwise.
    pub max_open_sessions: Option<u32>,
    /// `MACP_DATA_DIR`; only for a node without a node file.
    pub data_dir: PathBuf,
    /// `MACP_MEMORY_ONLY`.
    pub memory_only: bool,
    /// `MACP_SESSION_RETENTION_SECS`: a session that has ended leaves memory so long after its start.
    pub retention: Duration,
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
    /// `MACP_POLICIES_DIR`: policies are those of these files.
    pub policies: Option<PathBuf>,
    /// How receipts are signed.
    pub receipts: ReceiptSettings,
    /// Variables that are set and have no effect.
    pub without_effect: Vec<&'static str>,
}

/// Where static tokens come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenSource {
    /// `MACP_AUTH_TOKENS_JSON`.
    Inline(String),
    /// `MACP_AUTH_TOKENS_FILE`, or `[sessions] tokens_file`.
    File(PathBuf),
}

/// Whose JSON Web Tokens are taken (§5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwtSettings {
    /// `MACP_AUTH_ISSUER`.
    pub issuer: String,
    /// `MACP_AUTH_AUDIENCE`.
    pub audience: String,
    /// `MACP_AUTH_JWT_ALGS`.
    pub algorithms: Vec<String>,
    /// The issuer's keys.
    pub keys: JwksSource,
    /// `MACP_AUTH_JWKS_TTL_SECS`.
    pub ttl: Duration,
}

/// How receipts of decisions are signed (§16).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReceiptSettings {
    /// The key that signs; `None`: nobody signs.
    pub key: Option<SigningKey>,
    /// `MACP_RECEIPT_SIGNING_KID`.
    pub kid: Option<String>,
    /// `MACP_RECEIPT_PUBLIC_KEYS_PATH`: keys that signed before.
    pub retired: Option<PathBuf>,
}

/// Where a key that signs comes from.
#[derive(Clone, PartialEq, Eq)]
pub enum SigningKey {
    /// `MACP_RECEIPT_SIGNING_KEY`.
    Inline(String),
    /// `MACP_RECEIPT_SIGNING_KEY_PATH`.
    File(PathBuf),
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Inline(_) => f.write_str("Inline"),
            Self::File(path) => write!(f, "File({})", path.display()),
        }
    }
}

/// Where an issuer's keys come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JwksSource {
    /// `MACP_AUTH_JWKS_JSON`.
    Inline(String),
    /// `MACP_AUTH_JWKS_FILE`.
    File(PathBuf),
    /// `MACP_AUTH_JWKS_URL`.
    Url(String),
}

/// Variables of the reference that would change who may do what, or where data goes, and that this
/// version does not act on: with one of them set nothing is served, rather than something else.
const NOT_YET: [&str; 1] = ["MACP_HTTP_BIND_ADDR"];

/// Variables of the reference that have no effect here: they are about how it keeps its files, or
/// what it prints.
const NO_EFFECT: [&str; 9] = [
    "MACP_AUDIT_INFO_MODES",
    "MACP_AUDIT_INFO_POLICIES",
    "MACP_AUDIT_LEVEL",
    "MACP_CHECKPOINT_INTERVAL",
    "MACP_CLEANUP_INTERVAL_SECS",
    "MACP_COMPACT_TERMINAL_LOGS",
    "MACP_METRICS_ADDR",
    "MACP_SESSION_DISK_RETENTION_SECS",
    "MACP_STRICT_RECOVERY",
];

/// For whom JSON Web Tokens must be if nothing is said.
const AUDIENCE: &str = "macp-runtime";
/// How they may be signed if nothing is said.
const ALGORITHMS: &str = "RS256,ES256";
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
        if env.flag("MACP_POLICIES_DRY_RUN", false) {
            return Err("MACP_POLICIES_DRY_RUN ends the daemon once policies are checked: set it for `weftd run --session-only` alone".to_owned());
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

    /// The directory whose policies are to be checked, and nothing else done
    /// (`MACP_POLICIES_DRY_RUN`).
    ///
    /// # Errors
    /// It is not said which.
    pub fn policies_to_check(
        env: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Option<PathBuf>, String> {
        let env = Env::new(env);
        if !env.flag("MACP_POLICIES_DRY_RUN", false) {
            return Ok(None);
        }
        match env.get("MACP_POLICIES_DIR") {
            Some(dir) => Ok(Some(dir.into())),
            None => Err("MACP_POLICIES_DRY_RUN needs MACP_POLICIES_DIR: set it to the directory with the policies".to_owned()),
        }
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
        let jwt = jwt(sessions, env)?;
        let client_certificates = sessions.client_certificates;
        if client_certificates && tls.is_none() {
            return Err("`[sessions] client_auth` is `fabric`, and clients have certificates only over TLS: set `tls_cert` and `tls_key`".to_owned());
        }
        let allow_insecure = env.flag("MACP_ALLOW_INSECURE", sessions.allow_insecure);
        if tokens.is_none() && jwt.is_none() && !client_certificates && !allow_insecure {
            return Err("no authentication configured: set MACP_AUTH_TOKENS_FILE or MACP_AUTH_TOKENS_JSON (`[sessions] tokens_file`), or MACP_AUTH_ISSUER (`jwt_issuer`) with the issuer's keys, or for development MACP_ALLOW_INSECURE=1 (`allow_insecure = true`)".to_owned());
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
        let seconds = |name: &str, default: u32, least: u32| {
            env.number_from(name, default, least).map(|s| Duration::from_secs(s.into()))
        };
        let payload_max = env.number("MACP_MAX_PAYLOAD_BYTES", 1_048_576)?;
        // An entry of the log holds one payload, and what is agreed on at once is at most 8 MiB.
        if payload_max > 4 << 20 {
            return Err(format!("MACP_MAX_PAYLOAD_BYTES is {payload_max}, at most 4194304"));
        }
        Ok(Self {
            bind,
            tls,
            client_certificates,
            allow_insecure,
            tokens,
            jwt,
            dev_sender_header: env.flag("MACP_ALLOW_DEV_SENDER_HEADER", false),
            max_open_sessions: match env.get("MACP_MAX_OPEN_SESSIONS") {
                Some(_) => Some(env.number("MACP_MAX_OPEN_SESSIONS", 1)?),
                None => None,
            },
            data_dir: env.get("MACP_DATA_DIR").unwrap_or(".macp-data").into(),
            memory_only: env.flag("MACP_MEMORY_ONLY", sessions.memory_only),
            retention: seconds("MACP_SESSION_RETENTION_SECS", 3600, 0)?,
            payload_max: usize::try_from(payload_max).unwrap_or(1_048_576),
            starts_per_minute: env.number("MACP_SESSION_START_LIMIT_PER_MINUTE", 60)?,
            messages_per_minute: env.number("MACP_MESSAGE_LIMIT_PER_MINUTE", 600)?,
            page_default,
            page_max,
            per_connection: env.number("MACP_CONCURRENCY_LIMIT_PER_CONNECTION", 64)?,
            streams: env.number("MACP_MAX_CONCURRENT_STREAMS", 128)?,
            request_timeout: seconds("MACP_REQUEST_TIMEOUT_SECS", 30, 1)?,
            drain: seconds("MACP_SHUTDOWN_DRAIN_SECS", 10, 0)?,
            runtime_id: env.get("MACP_RUNTIME_ID").unwrap_or("macp-runtime").to_owned(),
            policies: env.get("MACP_POLICIES_DIR").map(PathBuf::from),
            receipts: receipts(env)?,
            without_effect: NO_EFFECT.into_iter().filter(|name| env.get(name).is_some()).collect(),
        })
    }
}

fn jwt(sessions: &Sessions, env: &Env) -> Result<Option<JwtSettings>, String> {
    let either = |name: &str, key: &str| env.get(name).unwrap_or(key).to_owned();
    let file = either("MACP_AUTH_JWKS_FILE", &sessions.jwks_file);
    let url = either("MACP_AUTH_JWKS_URL", &sessions.jwks_url);
    let keys = match env.get("MACP_AUTH_JWKS_JSON") {
        Some(json) => Some(JwksSource::Inline(json.to_owned())),
        None if !file.is_empty() => Some(JwksSource::File(file.into())),
        None => (!url.is_empty()).then_some(JwksSource::Url(url)),
    };
    let issuer = either("MACP_AUTH_ISSUER", &sessions.jwt_issuer);
    let keys = match (issuer.is_empty(), keys) {
        (true, None) => return Ok(None),
        // Whoever gave keys does not want to go without them.
        (true, Some(_)) => {
            return Err("the keys of an issuer are given (MACP_AUTH_JWKS_JSON, MACP_AUTH_JWKS_FILE or MACP_AUTH_JWKS_URL, `[sessions] jwks_file` or `jwks_url`), but no issuer: set MACP_AUTH_ISSUER (`jwt_issuer`)".to_owned());
        }
        (false, None) => {
            return Err(format!(
                "MACP_AUTH_ISSUER (`[sessions] jwt_issuer`) is `{issuer}`, and there are no keys of it: set MACP_AUTH_JWKS_JSON, MACP_AUTH_JWKS_FILE (`jwks_file`) or MACP_AUTH_JWKS_URL (`jwks_url`)"
            ));
        }
        (false, Some(keys)) => keys,
    };
    let audience = either("MACP_AUTH_AUDIENCE", &sessions.jwt_audience);
    let audience = if audience.is_empty() { AUDIENCE.to_owned() } else { audience };
    let algorithms = env.get("MACP_AUTH_JWT_ALGS").unwrap_or(ALGORITHMS);
    let algorithms = algorithms.split(',').map(|name| name.trim().to_owned()).collect();
    let ttl = Duration::from_secs(env.number("MACP_AUTH_JWKS_TTL_SECS", 300)?.into());
    Ok(Some(JwtSettings { issuer, audience, algorithms, keys, ttl }))
}

fn receipts(env: &Env) -> Result<ReceiptSettings, String> {
    let inline = env.get("MACP_RECEIPT_SIGNING_KEY");
    let key = match (inline, env.get("MACP_RECEIPT_SIGNING_KEY_PATH")) {
        (Some(_), Some(_)) => {
            return Err("MACP_RECEIPT_SIGNING_KEY and MACP_RECEIPT_SIGNING_KEY_PATH are both set: set one of them".to_owned());
        }
        (Some(text), None) => Some(SigningKey::Inline(text.to_owned())),
        (None, path) => path.map(|path| SigningKey::File(path.into())),
    };
    let kid = env.get("MACP_RECEIPT_SIGNING_KID").map(str::to_owned);
    if kid.is_some() && key.is_none() {
        return Err("MACP_RECEIPT_SIGNING_KID names a key, and there is none: set MACP_RECEIPT_SIGNING_KEY_PATH or MACP_RECEIPT_SIGNING_KEY".to_owned());
    }
    if key.is_some() && env.get("MACP_RUNTIME_ID").is_none() {
        return Err(
            "receipts are to be signed, and nothing says in whose name: set MACP_RUNTIME_ID"
                .to_owned(),
        );
    }
    let retired = env.get("MACP_RECEIPT_PUBLIC_KEYS_PATH").map(PathBuf::from);
    Ok(ReceiptSettings { key, kid, retired })
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
        self.number_from(name, default, 1)
    }

    fn number_from(&self, name: &str, default: u32, least: u32) -> Result<u32, String> {
        let Some(text) = self.get(name) else { return Ok(default) };
        match text.parse::<u32>() {
            Ok(number) if number >= least => Ok(number),
            _ => Err(format!("{name} is `{text}`, expected a whole number, at least {least}")),
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
            ("MACP_AUTH_JWKS_URL", "https://issuer/keys"),
            ("MACP_POLICIES_DRY_RUN", "1"),
            ("MACP_RECEIPT_SIGNING_KID", "k1"),
            ("MACP_HTTP_BIND_ADDR", "127.0.0.1:1"),
            ("MACP_STORAGE_BACKEND", "redis"),
            ("MACP_MAX_PAYLOAD_BYTES", "99999999"),
            ("MACP_TLS_CERT_PATH", "/only/one"),
        ] {
            let error = read(&[(name, value)]).expect_err(name);
            assert!(error.contains(name), "{error}");
        }
    }

    #[test]
    fn a_key_that_signs_receipts_comes_from_one_place_and_signs_in_a_name() {
        let read = |pairs: &[(&str, &str)]| {
            let all: Vec<_> =
                pairs.iter().chain(&[("MACP_ALLOW_INSECURE", "1")]).copied().collect();
            MacpSettings::of_environment(env(&all)).map(|settings| settings.receipts)
        };
        let (key, path) =
            (("MACP_RECEIPT_SIGNING_KEY", "k"), ("MACP_RECEIPT_SIGNING_KEY_PATH", "/k"));
        let name = ("MACP_RUNTIME_ID", "us");
        assert_eq!(read(&[]), Ok(ReceiptSettings::default()));
        let receipts = read(&[key, name, ("MACP_RECEIPT_SIGNING_KID", "k1")]).expect("reads");
        assert_eq!(receipts.key, Some(SigningKey::Inline("k".into())));
        assert_eq!(receipts.kid.as_deref(), Some("k1"));
        let receipts = read(&[path, name, ("MACP_RECEIPT_PUBLIC_KEYS_PATH", "/old")]);
        let receipts = receipts.expect("reads");
        assert_eq!(receipts.key, Some(SigningKey::File("/k".into())));
        assert_eq!(receipts.retired, Some("/old".into()));
        assert!(read(&[key, path, name]).expect_err("both").contains("both set"));
        assert!(read(&[key]).expect_err("no name").contains("MACP_RUNTIME_ID"));
    }

    #[test]
    fn certificates_of_clients_need_tls_and_are_enough() {
        let read = |tls: &str| {
            let sessions = Sessions {
                bind: Some(BIND),
                client_certificates: true,
                tls_cert: tls.into(),
                tls_key: tls.into(),
                ..Sessions::default()
            };
            MacpSettings::of_node(&sessions, env(&[]))
        };
        assert!(read("/pem").expect("reads").expect("served").client_certificates);
        assert!(read("").expect_err("no TLS").contains("client_auth"));
    }

    #[test]
    fn a_dry_run_says_which_directory_and_needs_nothing_else() {
        let check = |pairs: &[(&str, &str)]| MacpSettings::policies_to_check(env(pairs));
        let dir = ("MACP_POLICIES_DIR", "/policies");
        assert_eq!(check(&[dir]), Ok(None));
        assert_eq!(check(&[dir, ("MACP_POLICIES_DRY_RUN", "1")]), Ok(Some("/policies".into())));
        let error = check(&[("MACP_POLICIES_DRY_RUN", "1")]).expect_err("refused");
        assert!(error.contains("MACP_POLICIES_DIR"), "{error}");
    }

    #[test]
    fn an_issuer_needs_keys_and_those_given_win_over_a_file_and_a_file_over_an_address() {
        let file = Sessions {
            jwt_issuer: "i".into(),
            jwks_file: "/keys".into(),
            jwks_url: "https://k".into(),
            ..Sessions::default()
        };
        let tls = [("MACP_TLS_CERT_PATH", "/c"), ("MACP_TLS_KEY_PATH", "/k")];
        let read = |pairs: &[(&str, &str)]| {
            let bind = [("MACP_BIND_ADDR", "127.0.0.1:1")];
            let all: Vec<_> = bind.iter().chain(&tls).chain(pairs).copied().collect();
            let settings = MacpSettings::of_node(&file, env(&all)).expect("reads");
            settings.and_then(|settings| settings.jwt).expect("an issuer")
        };
        let jwt = read(&[]);
        assert_eq!(jwt.keys, JwksSource::File("/keys".into()));
        assert_eq!((jwt.audience.as_str(), jwt.ttl.as_secs()), ("macp-runtime", 300));
        assert_eq!(jwt.algorithms, ["RS256", "ES256"]);
        let jwt = read(&[
            ("MACP_AUTH_JWKS_JSON", "{}"),
            ("MACP_AUTH_JWT_ALGS", "EdDSA, HS256"),
            ("MACP_AUTH_AUDIENCE", "us"),
            ("MACP_AUTH_JWKS_TTL_SECS", "7"),
        ]);
        assert_eq!(jwt.keys, JwksSource::Inline("{}".into()));
        assert_eq!((jwt.audience.as_str(), jwt.ttl.as_secs()), ("us", 7));
        assert_eq!(jwt.algorithms, ["EdDSA", "HS256"]);
    }
}
