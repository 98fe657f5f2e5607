//! `node provision`: from a machine with systemd to a node of the cluster, by one script that is
//! printed, or run over `ssh` (orchestration §27). Each step looks first whether it is done, so that
//! the script can be run again at any time, and changes nothing then.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Serialize;
use weft_protocol::{IssueToken, format_time};
use weft_wire::{ActorKind, Address};

use super::App;
use super::init::parse_address;
use crate::args::Provision;
use crate::error::{CliError, Exit, Result};

/// What the steps are.
const STEPS: &str = include_str!("provision.sh");
/// For components that are processes, hardened; and for containers.
const UNITS: [(&str, &str); 2] = [
    ("weftd.service", include_str!("../../../node/systemd/weftd.service")),
    ("weftd-podman.service", include_str!("../../../node/systemd/weftd-podman.service")),
];
/// What a node needs.
const PROGRAMS: [&str; 3] = ["weftd", "weft", "weft-shim"];
/// Where programs wait on the other machine, in the login's home.
const INBOX: &str = ".weft-provision";
/// Says what is there already.
const PROBE: &str = "\
root=${WEFT_ROOT:-}
echo \"machine $(uname -m)\"
for program in weftd weft weft-shim; do
  file=$root/usr/local/bin/$program
  [ ! -r \"$file\" ] || echo \"sum $program $(sha256sum <\"$file\" | cut -d' ' -f1)\"
done
[ ! -e \"$root/var/lib/weft/node.json\" ] || echo joined
";

#[derive(Serialize)]
struct Script {
    name: String,
    script: String,
    expires_at: Option<String>,
}

/// One line of the script's output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Step {
    step: String,
    /// `ok`: it was so; `changed`; `missing`: left to you; `failed`.
    state: String,
    text: String,
}

#[derive(Serialize)]
struct Done {
    name: String,
    steps: Vec<Step>,
}

pub(crate) async fn run(app: &App, args: &Provision) -> Result<Exit> {
    if parse_address(&args.bind)?.ip().is_unspecified() {
        return Err(CliError::usage(format!("--bind {}: that is every interface", args.bind))
            .help("name the address of that machine which the other nodes reach"));
    }
    let Some(target) = &args.ssh else { return print(app, args).await };
    let far = Far { target: target.clone(), sudo: args.sudo };
    let programs = match &args.programs {
        Some(dir) => dir.clone(),
        None => beside()?,
    };
    let sums = sums(&programs)?;
    if args.dry_run {
        app.output.would(format!(
            "make {target} node {}, with the programs in {}",
            args.name,
            programs.display()
        ))?;
        return Ok(Exit::Ok);
    }
    let there = far.probe()?;
    if there.machine != std::env::consts::ARCH {
        return Err(CliError::failed(format!(
            "{target} is {}, and the programs here are for {}",
            there.machine,
            std::env::consts::ARCH
        ))
        .help("print the script without --ssh, and run it there beside programs for it"));
    }
    for (program, sum) in &sums {
        if !there.sums.contains(&(program.clone(), sum.clone())) {
            app.output.progress(format!("sending {program}"));
            far.send(program, &programs.join(program))?;
        }
    }
    // A token is made only if it is needed, as late as can be.
    let token = if there.joined { None } else { Some(token(app, args).await?) };
    let script = script(args, token.as_ref().map(|(token, _)| token.as_str()), &sums)?;
    let steps = far
        .run(&script, |step| if app.output.json { Ok(()) } else { app.output.line(shown(step)) });
    far.clean();
    let steps = steps?;
    let bad = steps.iter().find(|step| step.state == "failed").cloned();
    let done = Done { name: args.name.clone(), steps };
    if app.output.json {
        app.output.document(&done)?;
    }
    match bad {
        None => Ok(Exit::Ok),
        Some(bad) => Err(CliError::failed(format!("{target} is not a node: {}", bad.text))
            .step(format!("provision, {}", bad.step))
            .help("once that is corrected, repeat the command: what is done is left as it is")),
    }
}

async fn print(app: &App, args: &Provision) -> Result<Exit> {
    if args.dry_run {
        app.output.would(format!("print what makes a machine node {}", args.name))?;
        return Ok(Exit::Ok);
    }
    let (token, expires_at) = token(app, args).await?;
    let text = script(args, Some(&token), &[])?;
    let view = Script {
        name: args.name.clone(),
        script: text.clone(),
        expires_at: Some(expires_at.clone()),
    };
    app.output.result(&view, text.trim_end())?;
    app.output.progress(format!(
        "The script holds a join token, good for one node until {expires_at}. Run it as root on \
         that machine, with weftd, weft and weft-shim in the same directory."
    ));
    Ok(Exit::Ok)
}

/// A join token for that name, and until when it is good.
async fn token(app: &App, args: &Provision) -> Result<(String, String)> {
    let attached = app.attach().await?;
    let message = IssueToken { ttl_secs: args.ttl.as_secs().max(1), name: args.name.clone() };
    let issued = attached.ask(Address::here(ActorKind::Registry), message, app.question()).await?;
    Ok((issued.token, format_time(issued.expires_at)))
}

/// The whole script: what it is for, and the steps.
///
/// # Errors
/// Exit 2 for a value that no shell can be given.
fn script(args: &Provision, token: Option<&str>, sums: &[(String, String)]) -> Result<String> {
    let chosen = usize::from(args.podman);
    let [(unit, text), (other, _)] = if chosen == 0 { UNITS } else { [UNITS[1], UNITS[0]] };
    let mut script = String::from(
        "#!/bin/sh\n# Makes this machine a node of a Weft cluster; run it as root. It can be run \
         again: what is\n# done is left as it is. It may hold a secret, the join token.\n",
    );
    let uid = args.uid.to_string();
    let sums: Vec<String> = sums.iter().map(|(name, sum)| format!("{name} {sum}")).collect();
    let sums = sums.join("\n");
    for (variable, value) in [
        ("name", args.name.as_str()),
        ("bind", &args.bind),
        ("advertise", args.advertise.as_deref().unwrap_or_default()),
        ("gateway", &args.gateway),
        ("uid", &uid),
        ("podman", if args.podman { "1" } else { "0" }),
        ("unit", unit),
        ("other", other),
        ("sums", &sums),
        ("token", token.unwrap_or_default()),
    ] {
        let _ = writeln!(script, "{variable}={}", quoted(value)?);
    }
    let _ = write!(script, "unit_text() {{\ncat <<'WEFT_UNIT'\n{text}WEFT_UNIT\n}}\n{STEPS}");
    Ok(script)
}

/// One word for a shell, whatever it holds.
///
/// # Errors
/// Exit 2 for a NUL, which no shell takes.
fn quoted(value: &str) -> Result<String> {
    if value.contains('\0') {
        return Err(CliError::usage("a value holds a NUL"));
    }
    Ok(format!("'{}'", value.replace('\'', "'\\''")))
}

/// Where this program is.
fn beside() -> Result<PathBuf> {
    let own = std::env::current_exe().map_err(|error| {
        CliError::failed("cannot find this program's own directory").cause(error)
    })?;
    Ok(own.parent().unwrap_or(Path::new("/")).to_owned())
}

/// SHA-256 of each program, hex.
///
/// # Errors
/// Names the one that is not there.
fn sums(dir: &Path) -> Result<Vec<(String, String)>> {
    let sum = |program: &str| -> std::io::Result<String> {
        let mut file = File::open(dir.join(program))?;
        let mut context = ring::digest::Context::new(&ring::digest::SHA256);
        let mut buffer = vec![0; 1 << 16];
        loop {
            match file.read(&mut buffer)? {
                0 => break,
                read => context.update(buffer.get(..read).unwrap_or_default()),
            }
        }
        let digest = context.finish();
        Ok(digest.as_ref().iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        }))
    };
    PROGRAMS
        .into_iter()
        .map(|program| match sum(program) {
            Ok(sum) => Ok((program.to_owned(), sum)),
            Err(error) => Err(CliError::failed(format!(
                "the programs to send are not all in {}",
                dir.display()
            ))
            .cause(format!("{program}: {error}"))
            .help("name the directory that has weftd, weft and weft-shim with --programs")),
        })
        .collect()
}

fn shown(step: &Step) -> String {
    crate::error::clean(&format!("{:<9} {:<8} {}", step.step, step.state, step.text))
}

fn parse(line: &str) -> Option<Step> {
    let mut words = line.split_whitespace();
    let (step, state) = (words.next()?, words.next()?);
    ["ok", "changed", "missing", "failed"].contains(&state).then(|| Step {
        step: step.to_owned(),
        state: state.to_owned(),
        text: words.collect::<Vec<_>>().join(" "),
    })
}

/// What is on the other machine.
#[derive(Debug, Default, PartialEq, Eq)]
struct There {
    machine: String,
    sums: Vec<(String, String)>,
    joined: bool,
}

fn read_probe(text: &str) -> There {
    let mut there = There::default();
    for line in text.lines() {
        match line.split_whitespace().collect::<Vec<_>>().as_slice() {
            ["machine", machine] => there.machine = (*machine).to_owned(),
            ["sum", program, sum] => there.sums.push(((*program).to_owned(), (*sum).to_owned())),
            ["joined"] => there.joined = true,
            _ => {}
        }
    }
    there
}

/// A machine behind `ssh`. What it is told to run is always one of a few fixed texts; everything
/// else goes over its standard input.
struct Far {
    target: String,
    sudo: bool,
}

impl Far {
    fn command(&self, remote: &str) -> Command {
        let mut command = Command::new("ssh");
        command.args(["-T", "--", &self.target, remote]);
        command
    }

    fn shell(&self, environment: &str) -> Command {
        let sudo = if self.sudo { "sudo -n " } else { "" };
        self.command(&format!("{sudo}env {environment} sh -s"))
    }

    fn failed(&self, what: &str, status: std::process::ExitStatus) -> CliError {
        let error = CliError::failed(format!("{what} {} failed: {status}", self.target));
        // ssh's own failures.
        if status.code() == Some(255) {
            return error.help(format!("try `ssh {}` by hand", self.target));
        }
        error
    }

    fn start(mut command: Command, input: Stdio) -> Result<std::process::Child> {
        command.stdin(input).stdout(Stdio::piped()).spawn().map_err(|error| {
            CliError::failed("cannot start `ssh`")
                .cause(error)
                .help("install an ssh client, or print the script without --ssh and run it there")
        })
    }

    fn probe(&self) -> Result<There> {
        let mut child = Self::start(self.shell("LC_ALL=C"), Stdio::piped())?;
        feed(&mut child, PROBE);
        let output =
            child.wait_with_output().map_err(|error| CliError::failed("ssh").cause(error))?;
        if !output.status.success() {
            return Err(self.failed("looking at", output.status));
        }
        Ok(read_probe(&String::from_utf8_lossy(&output.stdout)))
    }

    fn send(&self, program: &str, from: &Path) -> Result<()> {
        let file = File::open(from)
            .map_err(|error| CliError::failed(from.display().to_string()).cause(error))?;
        // `program` is one of three words.
        let remote = format!("umask 077 && mkdir -p {INBOX} && cat >{INBOX}/{program}");
        let child = Self::start(self.command(&remote), Stdio::from(file))?;
        let output =
            child.wait_with_output().map_err(|error| CliError::failed("ssh").cause(error))?;
        if output.status.success() {
            Ok(())
        } else {
            Err(self.failed(&format!("sending {program} to"), output.status))
        }
    }

    fn run(&self, script: &str, say: impl Fn(&Step) -> Result<()>) -> Result<Vec<Step>> {
        let environment = format!("LC_ALL=C WEFT_PROGRAMS={INBOX}");
        let mut child = Self::start(self.shell(&environment), Stdio::piped())?;
        feed(&mut child, script);
        let mut steps = Vec::new();
        for line in child.stdout.take().into_iter().flat_map(|out| BufReader::new(out).lines()) {
            let Ok(line) = line else { break };
            if let Some(step) = parse(&line) {
                say(&step)?;
                steps.push(step);
            }
        }
        let status = child.wait().map_err(|error| CliError::failed("ssh").cause(error))?;
        let told = steps.iter().any(|step| step.state == "failed");
        if status.success() || told { Ok(steps) } else { Err(self.failed("the script on", status)) }
    }

    /// Removes what was sent.
    fn clean(&self) {
        if let Ok(child) = Self::start(self.command(&format!("rm -rf {INBOX}")), Stdio::null()) {
            let _ = child.wait_with_output();
        }
    }
}

/// Gives a program its standard input; one that does not read it says why by its exit code.
fn feed(child: &mut std::process::Child, text: &str) {
    if let Some(mut input) = child.stdin.take() {
        let _ = input.write_all(text.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn args(podman: bool) -> Provision {
        Provision {
            name: "n2".into(),
            bind: "10.0.0.2:7443".into(),
            advertise: None,
            gateway: "127.0.0.1:9765".into(),
            ssh: None,
            sudo: false,
            podman,
            uid: 743,
            programs: None,
            ttl: Duration::from_secs(3600),
            dry_run: false,
        }
    }

    #[test]
    fn the_script_is_one_that_a_shell_can_read_and_has_the_unit_that_was_asked_for() {
        for (podman, unit, line) in [
            (false, "weftd.service", "Description=Weft node\n"),
            (true, "weftd-podman.service", "Description=Weft node (containers)\n"),
        ] {
            let text = script(&args(podman), Some("weft1.x"), &[]).expect("a script");
            assert!(text.contains(&format!("\nunit='{unit}'\n")) && text.contains(line));
            let mut child = Command::new("sh").arg("-n").stdin(Stdio::piped()).spawn().expect("sh");
            feed(&mut child, &text);
            assert!(child.wait().expect("it ends").success());
        }
    }

    #[test]
    fn a_value_is_one_word_whatever_it_holds() {
        for value in ["", "plain", "it's", "$(id) `id` \"x\" \\ * ; &\nnext", "'''"] {
            let script = format!("printf %s {}", quoted(value).expect("quoted"));
            let output = Command::new("sh").args(["-c", &script]).output().expect("sh");
            assert_eq!(String::from_utf8_lossy(&output.stdout), value);
        }
        assert!(quoted("a\0b").is_err());
    }

    #[test]
    fn results_are_read_line_by_line_and_other_words_are_none() {
        let step = parse("join      changed  n2, in /var/lib/weft").expect("a step");
        let text = |part: &str| part.to_owned();
        assert_eq!(
            (step.step, step.state, step.text),
            (text("join"), text("changed"), text("n2, in /var/lib/weft"))
        );
        for other in ["", "Welcome to this machine", "join", "useradd: warning: x"] {
            assert_eq!(parse(other), None, "{other}");
        }
        let there = read_probe("Hello\nmachine x86_64\nsum weftd ab\nsum weft\njoined\n");
        assert!(there.joined && there.machine == "x86_64");
        assert_eq!(there.sums, [("weftd".to_owned(), "ab".to_owned())]);
    }

    #[test]
    fn programs_that_are_not_there_are_named() {
        let dir = tempfile::tempdir().expect("temp dir");
        std::fs::write(dir.path().join("weftd"), "abc").expect("writes");
        let error = sums(dir.path()).expect_err("refused").to_string();
        assert!(error.contains("--programs"), "{error}");
    }
}
