//! Where the file is, what it says, and changing it without losing a comment.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::*;

const SEED: &str = include_str!("../../tests/data/seed-cli.toml");

fn read(text: &str) -> Result<CliConfig, crate::Diagnostics> {
    CliConfig::parse(text, "weft.toml", Path::new("/c"), Some(Path::new("/home/u")))
}

fn node(name: &str, address: &str) -> NodeEntry {
    NodeEntry { name: name.into(), address: address.into(), ..NodeEntry::default() }
}

#[test]
fn the_file_is_found_by_flag_variable_and_home_in_that_order() {
    let all = |name: &str| match name {
        "WEFT_CONFIG" => Some("/v/w.toml".to_owned()),
        "XDG_CONFIG_HOME" => Some("/x".to_owned()),
        "HOME" => Some("/h".to_owned()),
        _ => None,
    };
    let without = |hidden: &'static [&'static str]| {
        move |name: &str| if hidden.contains(&name) { None } else { all(name) }
    };
    assert_eq!(config_path(Some(Path::new("f")), all), Some(PathBuf::from("f")));
    assert_eq!(config_path(None, all), Some(PathBuf::from("/v/w.toml")));
    assert_eq!(
        config_path(None, without(&["WEFT_CONFIG"])),
        Some(PathBuf::from("/x/weft/weft.toml"))
    );
    assert_eq!(
        config_path(None, without(&["WEFT_CONFIG", "XDG_CONFIG_HOME"])),
        Some(PathBuf::from("/h/.config/weft/weft.toml"))
    );
    assert_eq!(config_path(None, |_| None), None);
    assert_eq!(config_path(None, |_| Some(String::new())), None);
}

#[test]
fn the_seeds_file_is_understood() {
    let config = read(SEED).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(config.services_dir, Path::new("/home/kyle/.config/mcp/services"));
    assert_eq!(config.token_path.as_deref(), Some(Path::new("/home/kyle/.config/mcp/token")));
    assert_eq!(config.workspace.as_deref(), Some(Path::new("/home/u/src/metacircular")));
    assert_eq!(config.nodes, [node("rift", "100.95.252.120:9444")]);
    assert_eq!(
        config.warnings.short(),
        "weft.toml:4:1: warning: [mcias] is accepted and unused: this version asks no identity service"
    );
}

#[test]
fn a_context_is_read_with_its_paths_resolved() {
    let text = "current_context = \"lab\"\n[contexts.lab]\ncluster = \"c\"\nidentity_dir = \"lab\"\nsocket = \"/run/w.sock\"\nnodes = [{ name = \"n1\", address = \"10.0.0.1:7443\" }]\n";
    let config = read(text).unwrap();
    let (name, context) = config.context(None).unwrap();
    assert_eq!(name, "lab");
    assert_eq!(context.identity_dir, Path::new("/c/lab"));
    assert_eq!(context.socket.as_deref(), Some(Path::new("/run/w.sock")));
    assert_eq!(context.nodes, [node("n1", "10.0.0.1:7443")]);
    assert_eq!(config.services_dir, Path::new("/c/services"));
}

#[test]
fn the_context_is_the_one_asked_for_the_current_or_the_only_one() {
    let two =
        read("[contexts.a]\n[contexts.b]\n[[nodes]]\nname = \"n\"\naddress = \"h:1\"\n").unwrap();
    assert_eq!(two.context(Some("b")).unwrap().0, "b");
    assert_eq!(two.context(Some("b")).unwrap().1.nodes.len(), 1);
    assert_eq!(two.context(None), Err(ContextError::NoneChosen("a, b".into())));
    let advice = ContextError::NoneChosen("a, b".into()).to_string();
    for way in ["--context", "WEFT_CONTEXT", "current_context", "a, b"] {
        assert!(advice.contains(way), "{way}: {advice}");
    }
    assert!(matches!(two.context(Some("c")), Err(ContextError::Unknown { .. })));
    assert_eq!(read("[contexts.a]\n").unwrap().context(None).unwrap().0, "a");
    assert_eq!(read("").unwrap().context(None), Err(ContextError::NoneAtAll));
    let mut config = two;
    config.apply_env(|name| (name == "WEFT_CONTEXT").then(|| "a".to_owned()));
    assert_eq!(config.context(None).unwrap().0, "a");
}

#[test]
fn mistakes_are_refused_with_their_place() {
    for (text, expected) in [
        ("[service]\n", "weft.toml:1:2: unknown key `service`"),
        ("current_context = \"x\"\n", "weft.toml:1:19: there is no context `x`"),
        ("[contexts.a]\nclustre = \"x\"\n", "weft.toml:2:1: unknown key `clustre` in [contexts.a]"),
        (
            "[contexts.\"a b\"]\n",
            "weft.toml:1:11: `a b` is not the name of a context: 1 to 64 letters, digits, `.`, `_` and `-`",
        ),
        ("[[nodes]]\nname = \"n\"\n", "weft.toml:1:1: missing key `address` in node `n`"),
        (
            "[[nodes]]\nname = \"n\"\naddress = \"10.0.0.1\"\n",
            "weft.toml:3:11: `address`: `10.0.0.1` is not an address: write host:port",
        ),
        (
            "nodes = [{ name = \"n\", address = \"h:1\" }, { name = \"n\", address = \"h:2\" }]",
            "weft.toml:1:52: two nodes are called `n`",
        ),
        ("[auth]\npassword = \"x\"\n", "weft.toml:2:1: unknown key `password` in [auth]"),
        ("[services]\ndir = \"\"\n", "weft.toml:2:7: `dir` must not be empty"),
        (
            "[identity]\nserver_url = 1\n",
            "weft.toml:2:14: `server_url` must be a string, found an integer",
        ),
    ] {
        assert_eq!(read(text).unwrap_err().short(), expected);
    }
}

#[test]
fn a_file_that_does_not_exist_is_an_empty_one() {
    let dir = tempfile::tempdir().unwrap();
    let config = CliConfig::load(&dir.path().join("weft.toml"), None).unwrap();
    assert!(config.contexts.is_empty());
    assert_eq!(config.services_dir, dir.path().join("services"));
}

#[test]
fn edits_keep_comments_and_order() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("weft.toml");
    let text = "# mine\ncurrent_context = \"a\" # now\n\n[services]\ndir = \"s\" # here\n\n# first\n[contexts.a]\ncluster = \"c\"\nidentity_dir = \"a\" # id\n";
    std::fs::write(&path, text).unwrap();
    let mut file = CliFile::open(&path).unwrap();
    let context = Context {
        cluster: "d".into(),
        identity_dir: dir.path().join("identity/b"),
        nodes: vec![node("n1", "h:1")],
        socket: Some(PathBuf::from("/run/weft.sock")),
    };
    file.set_context("b", &context).unwrap();
    file.use_context("b").unwrap();
    file.set_node("b", &node("n2", "h:2")).unwrap();
    file.set_node("b", &node("n1", "h:9")).unwrap();
    file.set_node("a", &node("n7", "h:7")).unwrap();
    file.save().unwrap();
    let written = std::fs::read_to_string(&path).unwrap();
    assert_eq!(
        written,
        "# mine\ncurrent_context = \"b\" # now\n\n[services]\ndir = \"s\" # here\n\n# first\n[contexts.a]\ncluster = \"c\"\nidentity_dir = \"a\" # id\n\
         nodes = [\n    { name = \"n7\", address = \"h:7\" },\n]\n\n\
         [contexts.b]\ncluster = \"d\"\nidentity_dir = \"identity/b\"\nsocket = \"/run/weft.sock\"\n\
         nodes = [\n    { name = \"n1\", address = \"h:9\" },\n    { name = \"n2\", address = \"h:2\" },\n]\n"
    );
    let config = CliConfig::load(&path, None).unwrap();
    assert_eq!(
        config.context(None).unwrap().1,
        Context { nodes: vec![node("n1", "h:9"), node("n2", "h:2")], ..context }
    );
    let mut file = CliFile::open(&path).unwrap();
    file.remove_node("b", "n1").unwrap();
    file.remove_context("b").unwrap();
    assert!(matches!(file.remove_node("b", "n2"), Err(EditError::NoContext(_))));
    assert!(matches!(file.remove_context("b"), Err(EditError::NoContext(_))));
    assert!(matches!(file.use_context("b"), Err(EditError::NoContext(_))));
    assert!(matches!(file.remove_node("a", "n2"), Err(EditError::NoNode(_))));
    assert!(matches!(file.set_context("a b", &Context::default()), Err(EditError::Name(_))));
    assert!(!file.text().contains("current_context"));
}

#[test]
fn a_new_file_is_private_and_nothing_else_is_left_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("weft/weft.toml");
    let mut file = CliFile::open(&path).unwrap();
    file.set_context("lab", &Context::default()).unwrap();
    file.save().unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o600);
    assert_eq!(mode(path.parent().unwrap()), 0o700);
    assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    assert!(!readable_by_others(&path).unwrap());
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(readable_by_others(&path).unwrap());
    file.save().unwrap();
    assert_eq!(mode(&path), 0o600);
}

#[test]
fn a_broken_file_is_not_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("weft.toml");
    std::fs::write(&path, "a = \n").unwrap();
    assert!(matches!(CliFile::open(&path), Err(EditError::Syntax { .. })));
    std::fs::write(&path, "contexts = 1\n").unwrap();
    let mut file = CliFile::open(&path).unwrap();
    assert!(matches!(file.set_context("a", &Context::default()), Err(EditError::Shape { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_damaged_cli_file_is_read_or_refused_without_a_panic(
        at in any::<prop::sample::Index>(), length in 0..20usize, with in "[\\[\\]={}\"'.,a0\\n é]{0,6}",
    ) {
        let mut chars: Vec<char> = SEED.chars().collect();
        let at = at.index(chars.len());
        chars.splice(at..(at + length).min(chars.len()), with.chars());
        let text: String = chars.into_iter().collect();
        if let Err(errors) = read(&text) {
            prop_assert!(!errors.to_string().is_empty());
        }
    }
}
