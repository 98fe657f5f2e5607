//! Which definition a deploy uses (orchestration §8.1), and how mistakes in it are shown.

use std::io::Read;
use std::path::{Path, PathBuf};

use weft_config::Diagnostics;
use weft_config::service::{Parsed, Stem, parse_file, parse_with};
use weft_protocol::{CommandRef, ServiceSpec};

use super::ship;
use crate::context::parse_options;
use crate::error::{CliError, Exit, Result};
use crate::output::Output;
use crate::paths::{absolute, normal};

/// Larger definitions are refused unread, in bytes.
const STDIN_MAX: u64 = 1024 * 1024;

/// What a deploy or plan is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// The service.
    pub(crate) service: String,
    /// One component; empty: all.
    pub(crate) component: String,
    /// The definition; `None`: the one the registry has.
    pub(crate) spec: Option<Box<ServiceSpec>>,
    /// Where the files lie that come with it, in their order.
    pub(crate) sources: Vec<PathBuf>,
}

/// Where to look.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    /// `-f FILE`.
    File(PathBuf),
    /// `-f -`.
    Stdin,
    /// By name: the services directory, then the registry.
    Named,
}

/// Splits what was typed into a reference and a source. `deploy ./web.toml` means `-f ./web.toml`.
///
/// # Errors
/// Exit 2, for what is neither a name nor a file.
pub(crate) fn read_arguments(
    target: Option<&str>,
    file: Option<&Path>,
) -> Result<(Option<CommandRef>, Source)> {
    if let (None, Some(path)) = (file, target)
        && (path.ends_with(".toml") || path == "-")
    {
        return read_arguments(None, Some(Path::new(path)));
    }
    let reference =
        target.map(|text| text.parse::<CommandRef>().map_err(CliError::usage)).transpose()?;
    let source = match file {
        Some(path) if path == Path::new("-") => Source::Stdin,
        Some(path) => Source::File(path.to_owned()),
        None => Source::Named,
    };
    Ok((reference, source))
}

/// Finds and parses the definition.
///
/// # Errors
/// Exit 2, with every mistake drawn, or naming the components there are.
pub(crate) fn resolve(
    reference: Option<&CommandRef>,
    source: &Source,
    (services_dir, registry): (&Path, &str),
    output: &Output,
) -> Result<Wanted> {
    let options = parse_options(registry);
    let (parsed, dir) = match source {
        Source::File(path) => (parse_file(path, Stem::Any, options), parent(&absolute(path)?)),
        Source::Stdin => {
            let mut text = String::new();
            let read = std::io::stdin().lock().take(STDIN_MAX + 1).read_to_string(&mut text);
            match read {
                Ok(size) if size as u64 <= STDIN_MAX => {}
                Ok(_) => return Err(CliError::usage("the definition is over 1 MiB")),
                Err(error) => {
                    return Err(CliError::usage("cannot read the definition from standard input")
                        .cause(error));
                }
            }
            (parse_with(&text, "<stdin>", options), absolute(Path::new("."))?)
        }
        Source::Named => {
            let Some(reference) = reference else {
                return Err(CliError::usage("name a service, or a definition with -f"));
            };
            let path = services_dir.join(format!("{}.toml", reference.service));
            if !path.exists() {
                return Ok(Wanted {
                    service: reference.service.clone(),
                    component: reference.component.clone(),
                    spec: None,
                    sources: Vec::new(),
                });
            }
            (parse_file(&path, Stem::MustMatch, options), parent(&absolute(&path)?))
        }
    };
    let Parsed { mut spec, warnings } = parsed.map_err(|errors| invalid(&errors))?;
    for warning in &warnings {
        output.notice(warning);
    }
    if let Some(reference) = reference
        && reference.service != spec.name
    {
        return Err(CliError::usage(format!(
            "the definition is of service `{}`, not of `{}`",
            spec.name, reference.service
        ))
        .help("name the service as the definition does, or leave the name out"));
    }
    let component = reference.map(|r| r.component.clone()).unwrap_or_default();
    check_component(&spec, &component)?;
    resolve_programs(&mut spec, &dir);
    let sources = ship::read(&mut spec, &dir)?;
    Ok(Wanted { service: spec.name.clone(), component, spec: Some(Box::new(spec)), sources })
}

/// Refuses a component that the definition does not have, naming those it has (§8.1).
///
/// # Errors
/// Exit 2.
pub(crate) fn check_component(spec: &ServiceSpec, component: &str) -> Result<()> {
    if component.is_empty() || spec.component(component).is_some() {
        return Ok(());
    }
    let names: Vec<&str> = spec.components.iter().map(|c| c.name.as_str()).collect();
    Err(CliError::usage(format!("service `{}` has no component `{component}`", spec.name))
        .help(format!("its components are: {}", names.join(", ")))
        .service(&spec.name))
}

/// Makes a program given relative to the definition file absolute (orchestration §3.2, `cmd`).
/// A bare name stays, to be found on each node's PATH, and so does a file that is shipped.
pub(super) fn resolve_programs(spec: &mut ServiceSpec, dir: &Path) {
    let files = spec.files.clone();
    for component in &mut spec.components {
        if component.driver != weft_protocol::Driver::Process {
            continue;
        }
        if let Some(program) = component.cmd.first_mut()
            && program.contains('/')
            && !program.starts_with('/')
            && !files.iter().any(|file| file.is(program))
        {
            *program = normal(&dir.join(&*program)).to_string_lossy().into_owned();
        }
    }
}

/// Mistakes in a definition: exit 2, each as one line and drawn below.
pub(crate) fn invalid(errors: &Diagnostics) -> CliError {
    let count = errors.len();
    let first = errors.iter().next().map(weft_config::Diagnostic::short).unwrap_or_default();
    if count > 1 {
        return CliError::new(
            Exit::Usage,
            "invalid",
            format!("{count} mistakes, the first: {first}"),
        )
        .details(errors.iter().map(ToString::to_string));
    }
    // The one message is said already.
    CliError::new(Exit::Usage, "invalid", first)
        .details(errors.iter().map(drawn).filter(|text| !text.is_empty()))
}

/// A mistake drawn, without the line that repeats its message.
pub(crate) fn drawn(mistake: &weft_config::Diagnostic) -> String {
    mistake.to_string().split_once('\n').map(|(_, rest)| rest.to_owned()).unwrap_or_default()
}

fn parent(path: &Path) -> PathBuf {
    path.parent().unwrap_or(Path::new("/")).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Global;

    const WEB: &str = "name = \"web\"\n\n[[components]]\nname = \"api\"\ncmd = [\"./bin/../api\", \"./x\"]\n\n\
                       [[components]]\nname = \"sh\"\ncmd = [\"sh\"]\n";

    fn output() -> Output {
        Output::new(&Global::default())
    }

    fn reference(text: &str) -> CommandRef {
        text.parse().expect("parses")
    }

    #[test]
    fn a_program_relative_to_its_definition_becomes_absolute_and_a_bare_name_stays() {
        let dir = tempfile::tempdir().expect("temp dir");
        let file = dir.path().join("web.toml");
        std::fs::write(&file, WEB).expect("writes");
        let wanted = resolve(None, &Source::File(file), (Path::new("/none"), ""), &output())
            .expect("resolves");
        let spec = wanted.spec.expect("has a spec");
        let here = absolute(dir.path()).expect("absolute");
        assert_eq!(spec.components[0].cmd[0], here.join("api").to_string_lossy());
        assert_eq!(spec.components[0].cmd[1], "./x");
        assert_eq!(spec.components[1].cmd[0], "sh");
    }

    #[test]
    fn a_program_that_is_shipped_stays_relative_and_is_known_by_its_content() {
        let dir = tempfile::tempdir().expect("temp dir");
        let file = dir.path().join("web.toml");
        let text = WEB.replacen('\n', "\nfiles = [\"bin/api\"]\n", 1);
        std::fs::write(&file, text.replace("./bin/../api", "./bin/api")).expect("writes");
        let read =
            || resolve(None, &Source::File(file.clone()), (Path::new("/none"), ""), &output());
        assert_eq!(read().expect_err("not there").exit, Exit::Usage);
        std::fs::create_dir(dir.path().join("bin")).expect("makes");
        std::fs::write(dir.path().join("bin/api"), "abc").expect("writes");
        let wanted = read().expect("resolves");
        let spec = wanted.spec.expect("has a spec");
        assert_eq!(spec.components[0].cmd[0], "./bin/api");
        assert_eq!((spec.files[0].size, wanted.sources.len()), (3, 1));
    }

    #[test]
    fn the_services_directory_comes_before_the_registry() {
        let dir = tempfile::tempdir().expect("temp dir");
        let web = reference("web/api");
        let wanted =
            resolve(Some(&web), &Source::Named, (dir.path(), ""), &output()).expect("resolves");
        assert_eq!((wanted.spec, wanted.component.as_str()), (None, "api"));
        std::fs::write(dir.path().join("web.toml"), WEB).expect("writes");
        let wanted =
            resolve(Some(&web), &Source::Named, (dir.path(), ""), &output()).expect("resolves");
        assert!(wanted.spec.is_some());
    }

    #[test]
    fn an_unknown_component_lists_the_valid_ones() {
        let dir = tempfile::tempdir().expect("temp dir");
        std::fs::write(dir.path().join("web.toml"), WEB).expect("writes");
        let error =
            resolve(Some(&reference("web/db")), &Source::Named, (dir.path(), ""), &output())
                .expect_err("refused");
        assert_eq!(error.exit, Exit::Usage);
        assert!(error.to_string().contains("api, sh"), "{error}");
    }

    #[test]
    fn a_mistake_is_shown_with_line_and_column_and_drawn() {
        let dir = tempfile::tempdir().expect("temp dir");
        let file = dir.path().join("web.toml");
        std::fs::write(&file, WEB.replace("cmd = [\"sh\"]", "cmdd = [\"sh\"]")).expect("writes");
        let error = resolve(None, &Source::File(file), (Path::new("/none"), ""), &output())
            .expect_err("refused");
        let text = error.to_string();
        assert_eq!(error.exit, Exit::Usage);
        assert!(text.contains("web.toml:9:1") && text.contains("^^^^"), "{text}");
        assert_eq!(text.matches("unknown key").count(), 1, "said once: {text}");
    }

    #[test]
    fn a_definition_of_another_service_is_refused() {
        let dir = tempfile::tempdir().expect("temp dir");
        let file = dir.path().join("x.toml");
        std::fs::write(&file, WEB).expect("writes");
        let error = resolve(
            Some(&reference("shop")),
            &Source::File(file),
            (Path::new("/none"), ""),
            &output(),
        )
        .expect_err("refused");
        assert!(error.to_string().contains("`web`, not of `shop`"), "{error}");
    }

    #[test]
    fn a_path_in_place_of_a_name_is_a_file() {
        let (reference, source) = read_arguments(Some("./web.toml"), None).expect("reads");
        assert!(reference.is_none() && matches!(source, Source::File(_)));
        let (_, source) = read_arguments(Some("-"), None).expect("reads");
        assert!(matches!(source, Source::Stdin));
        assert_eq!(read_arguments(Some("WEB"), None).expect_err("refused").exit, Exit::Usage);
    }
}
