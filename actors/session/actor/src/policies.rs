//! Policies from files (§14, file loading): each `*.json` file of a directory is one definition.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;
use weft_session::{Catalogue, Policy};

/// A file with a policy cannot be used, or their directory cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {why}", .path.display())]
pub struct PolicyError {
    /// The file or directory.
    pub path: PathBuf,
    /// What is wrong with it.
    pub why: String,
}

/// Files, and which policy each has or what is wrong with it.
pub type CheckedPolicies = Vec<(PathBuf, Result<String, String>)>;

#[derive(Deserialize)]
struct Definition {
    policy_id: String,
    mode: String,
    #[serde(default)]
    description: String,
    rules: Value,
    schema_version: u32,
}

/// Reads every `*.json` file of `dir` by name, checks it as a registration is checked, and says
/// which policy it has or what is wrong.
///
/// # Errors
/// [`PolicyError`] if the directory cannot be read.
pub fn check_policies(dir: &Path) -> Result<CheckedPolicies, PolicyError> {
    read(dir, &mut Catalogue::default())
}

/// As [`check_policies`]; the policies that are right become the ones of `catalogue`.
pub(crate) fn read(dir: &Path, catalogue: &mut Catalogue) -> Result<CheckedPolicies, PolicyError> {
    let failed =
        |error: std::io::Error| PolicyError { path: dir.to_owned(), why: error.to_string() };
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|end| end == "json") {
            paths.push(path);
        }
    }
    paths.sort();
    catalogue.fix_policies();
    let mut one = |path: &Path| -> Result<String, String> {
        let policy = definition(path)?;
        let id = policy.policy_id.clone();
        catalogue.fix_policy(policy).map_err(|error| error.to_string())?;
        Ok(id)
    };
    Ok(paths.into_iter().map(|path| (path.clone(), one(&path))).collect())
}

fn definition(path: &Path) -> Result<Policy, String> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    let read: Definition = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    let rules = match read.rules {
        // As RegisterPolicy has them.
        Value::String(text) => text,
        rules => rules.to_string(),
    };
    Ok(Policy {
        policy_id: read.policy_id,
        mode: read.mode,
        description: read.description,
        rules,
        schema_version: read.schema_version,
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::Modes;

    fn policy(id: &str, rules: &str) -> String {
        format!(
            r#"{{"policy_id":"{id}","mode":"macp.mode.decision.v1","rules":{rules},"schema_version":3}}"#
        )
    }

    #[test]
    fn policies_are_those_of_the_files_and_the_first_bad_file_is_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let write =
            |name: &str, text: &str| fs::write(dir.path().join(name), text).expect("writes");
        let vote = r#"{"voting":{"algorithm":"majority"}}"#;
        write("a.json", &policy("policy.a", vote));
        write("b.json", &policy("policy.b", &serde_json::json!(vote).to_string()));
        write("notes.txt", "not read");
        let modes = Modes::default().with_policies(dir.path()).expect("reads");
        let catalogue = modes.read();
        assert!(catalogue.has_fixed_policies());
        assert_eq!(catalogue.policies("").len(), 6);
        let rules = |id| catalogue.policy(id).map(|policy| policy.rules.clone());
        assert!(rules("policy.a").is_some() && rules("policy.a") == rules("policy.b"));

        for (text, why) in [
            ("no JSON", "expected"),
            (r#"{"policy_id":"policy.c"}"#, "missing field"),
            (policy("policy.a", "{}").as_str(), "registered already"),
            (policy("policy.default", "{}").as_str(), "built in"),
            (policy("policy.c", "[]").as_str(), "must be a JSON object"),
            (
                policy("policy.c", r#"{"voting":{"algorithm":"most"}}"#).as_str(),
                "INVALID_POLICY_DEFINITION",
            ),
        ] {
            write("c.json", text);
            write("d.json", "worse");
            let error = Modes::default().with_policies(dir.path()).expect_err(text);
            assert!(error.path.ends_with("c.json") && error.why.contains(why), "{error}");
            let all = check_policies(dir.path()).expect("reads");
            let good: Vec<_> = all.iter().map(|(_, read)| read.is_ok()).collect();
            assert_eq!(good, [true, true, false, false]);
        }
        let missing = dir.path().join("missing");
        let error = Modes::default().with_policies(&missing).expect_err("no directory");
        assert!(error.to_string().contains("missing"), "{error}");
    }
}
