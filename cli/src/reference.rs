//! Keeps docs/reference.md whole: every command, argument and flag of the command line stands in it.

use clap::CommandFactory;

use crate::args::Cli;

const REFERENCE: &str = include_str!("../../docs/reference.md");

/// The part of the page under a heading, up to the next one of the same or a higher level.
fn part<'a>(heading: &str) -> Option<&'a str> {
    let at = REFERENCE.find(&format!("\n{heading}\n"))? + 1;
    let rest = REFERENCE.get(at + heading.len()..)?;
    let end = ["\n# ", "\n## ", "\n### "].iter().filter_map(|next| rest.find(next)).min();
    rest.get(..end.unwrap_or(rest.len()))
}

/// How an argument is written there.
fn names(argument: &clap::Arg) -> Vec<String> {
    let mut names = Vec::new();
    names.extend(argument.get_short().map(|short| format!("`-{short}")));
    names.extend(argument.get_long().map(|long| format!("--{long}")));
    if names.is_empty() {
        names.extend(argument.get_value_names().into_iter().flatten().map(ToString::to_string));
    }
    names
}

fn check(command: &clap::Command, path: &str, missing: &mut Vec<String>) {
    let own = |argument: &&clap::Arg| {
        !argument.is_global_set()
            && !argument.is_hide_set()
            && !["help", "version"].contains(&argument.get_id().as_str())
    };
    // A command that only holds others has no part of its own.
    if !command.is_subcommand_required_set() {
        let heading = format!("### `{path}`");
        match part(&heading) {
            None => missing.push(heading),
            Some(text) => {
                for name in command.get_arguments().filter(own).flat_map(names) {
                    if !text.contains(&name) {
                        missing.push(format!("{path}: {name}"));
                    }
                }
            }
        }
    }
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        check(sub, &format!("{path} {}", sub.get_name()), missing);
    }
}

#[test]
fn every_command_and_every_flag_stands_in_the_reference() {
    let mut command = Cli::command();
    command.build();
    let mut missing = Vec::new();
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        check(verb, &format!("weft {}", verb.get_name()), &mut missing);
    }
    let global = part("### Global options").unwrap_or_default();
    for argument in Cli::command().get_arguments().filter(|a| a.is_global_set() && !a.is_hide_set())
    {
        missing.extend(
            names(argument)
                .into_iter()
                .filter(|name| !global.contains(name))
                .map(|name| format!("global: {name}")),
        );
    }
    assert!(missing.is_empty(), "docs/reference.md lacks: {missing:#?}");
}

#[test]
fn the_reference_names_no_command_that_does_not_exist() {
    let command = Cli::command();
    for line in REFERENCE.lines() {
        let Some(path) = line.strip_prefix("### `weft ").and_then(|rest| rest.strip_suffix('`'))
        else {
            continue;
        };
        let mut at = &command;
        for word in path.split(' ') {
            at = at.find_subcommand(word).unwrap_or_else(|| panic!("weft {path}: no {word}"));
        }
    }
}

#[test]
fn every_key_of_the_node_file_stands_in_the_reference_with_its_default() {
    for key in weft_config::node::KEYS {
        let row = REFERENCE
            .lines()
            .find(|line| line.starts_with(&format!("| `{}` |", key.name)))
            .unwrap_or_else(|| panic!("docs/reference.md lacks {}", key.name));
        let default = key.default.unwrap_or("required");
        assert!(default.is_empty() || row.contains(default), "{}: {default}: {row}", key.name);
        let idle = weft_config::node::WITHOUT_EFFECT.iter().any(|(name, _)| *name == key.name);
        assert_eq!(row.contains("not in this version"), idle, "{row}");
    }
}

/// Every `weft …` in backquotes of a text, as words behind `weft`.
fn named_commands(text: &str) -> Vec<Vec<String>> {
    let starts = text.match_indices("`weft ").map(|(at, found)| at + found.len());
    starts
        .filter_map(|at| text.get(at..)?.split('`').next())
        .map(|line| line.split_whitespace().map(str::to_owned).collect())
        .collect()
}

/// Texts that people read: sources that hold errors and help, and the documents.
fn texts(dir: &std::path::Path, out: &mut Vec<(String, String)>) {
    for entry in std::fs::read_dir(dir).expect("a directory of the workspace").flatten() {
        let path = entry.path();
        if path.is_dir() {
            texts(&path, out);
        } else if path.extension().is_some_and(|end| end == "rs" || end == "md")
            && let Ok(text) = std::fs::read_to_string(&path)
        {
            out.push((path.display().to_string(), text));
        }
    }
}

#[test]
fn every_command_that_a_text_advises_exists() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut all = Vec::new();
    for dir in ["cli/src", "config/src", "actors", "node/src", "fabric", "docs"] {
        texts(&root.join(dir), &mut all);
    }
    all.push(("README.md".into(), include_str!("../../README.md").into()));
    let command = Cli::command();
    let mut wrong = Vec::new();
    for (file, text) in &all {
        for words in named_commands(text) {
            let mut at = &command;
            // Options of `weft` itself, placeholders and arguments end what is looked up.
            for word in words.iter().take_while(|word| word.bytes().all(|b| b.is_ascii_lowercase()))
            {
                match at.find_subcommand(word) {
                    Some(sub) => at = sub,
                    None if at.has_subcommands() => {
                        wrong.push(format!("{file}: weft {}", words.join(" ")));
                        break;
                    }
                    None => break,
                }
            }
        }
    }
    // What is announced for later is named where it is refused.
    wrong.retain(|found| !found.contains("weft ca rotate") && !found.contains("weft upgrade"));
    assert!(wrong.is_empty(), "{wrong:#?}");
}
