//! `logs`: what components wrote, from every node.

use std::collections::BTreeSet;

use weft_protocol::{ClusterLogs, ClusterPs, LogLine, LogRow, LogStream, format_time};
use weft_wire::{ActorKind, Address, Clock, SystemClock};

use super::App;
use super::follow::{self, Shown, ShownLines};
use crate::args::Logs;
use crate::error::{CliError, Exit, Result, clean};
use crate::output::views::LogView;

pub(crate) async fn run(app: &App, args: &Logs) -> Result<Exit> {
    let attached = app.attach().await?;
    let gateway = || Address::here(ActorKind::Gateway);
    // Whether lines need a prefix is known before the first one comes, so that all look alike.
    let ps = ClusterPs { target: Some(args.target.clone()) };
    let known = attached.ask(gateway(), ps, app.question()).await?;
    let wanted = |replica: u32| args.replica.is_none_or(|only| only == replica);
    let keys: BTreeSet<_> =
        known.rows.iter().map(|row| &row.status.key).filter(|key| wanted(key.replica)).collect();
    if let (true, Some(replica)) = (keys.is_empty(), args.replica) {
        let there: BTreeSet<String> =
            known.rows.iter().map(|row| row.status.key.replica.to_string()).collect();
        let there: Vec<String> = there.into_iter().collect();
        return Err(CliError::new(
            Exit::Failed,
            "not-found",
            format!("{} has no replica {replica}", args.target),
        )
        .help(format!("its replicas are {}", there.join(", ")))
        .service(&args.target.service));
    }
    let prefix = Prefix {
        component: keys.iter().map(|k| &k.component).collect::<BTreeSet<_>>().len() > 1,
        replica: keys.iter().map(|k| k.replica).collect::<BTreeSet<_>>().len() > 1,
        time: args.timestamps,
    };
    let shown = ShownLines::new(SystemClock.wall());
    let mut stream = Stream { app, args, prefix, again: false, shown };
    follow::run(app, attached, args.follow, &mut stream).await?;
    Ok(Exit::Ok)
}

struct Stream<'a> {
    app: &'a App,
    args: &'a Logs,
    prefix: Prefix,
    again: bool,
    shown: ShownLines,
}

impl Shown for Stream<'_> {
    type Wanted = ClusterLogs;
    const NAMES_MISSING: bool = true;

    fn wanted(&mut self, again: bool) -> ClusterLogs {
        let mut message = ClusterLogs {
            target: self.args.target.clone(),
            replica: self.args.replica.unwrap_or(0),
            tail: self.args.tail,
            since: self.args.since,
            follow: self.args.follow,
        };
        if again {
            self.again = true;
            self.shown.reopened();
            message.tail = None;
            message.since = message.since.max(Some(self.shown.since()));
        }
        message
    }

    fn show(&mut self, row: LogRow) -> Result<()> {
        let output = &self.app.output;
        match row {
            LogRow::Line { node, line } => {
                if !self.shown.is_new(&node, &line, self.again) {
                    Ok(())
                } else if output.json {
                    output.document(&LogView::new(&node, &line))
                } else {
                    output.line(self.prefix.line(&line))
                }
            }
            LogRow::Missing(reply) => {
                output
                    .notice(clean(&format!("node {} did not answer: {}", reply.node, reply.error)));
                Ok(())
            }
        }
    }
}

/// What stands before each line.
#[derive(Debug, Clone, Copy)]
struct Prefix {
    component: bool,
    replica: bool,
    time: bool,
}

impl Prefix {
    fn line(self, line: &LogLine) -> String {
        let mut out = String::new();
        if self.time {
            out.push_str(&format_time(line.time));
            out.push(' ');
        }
        match (self.component, self.replica) {
            (true, true) => {
                out.push_str(&format!("{}#{} | ", line.key.component, line.key.replica))
            }
            (true, false) => out.push_str(&format!("{} | ", line.key.component)),
            (false, true) => out.push_str(&format!("#{} | ", line.key.replica)),
            (false, false) => {}
        }
        if line.stream == LogStream::Weft {
            out.push_str("[weft] ");
        }
        // A component's own colours pass; what a terminal would act on beyond them does not.
        out.extend(line.text.chars().map(|c| match c {
            '\t' | '\u{1b}' => c,
            c if c.is_control() => '\u{fffd}',
            c => c,
        }));
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_protocol::ComponentKey;
    use weft_wire::WallTime;

    fn line(stream: LogStream) -> LogLine {
        LogLine {
            key: ComponentKey { service: "web".into(), replica: 2, component: "api".into() },
            time: WallTime::from_micros(1_000_000),
            stream,
            text: "hello".into(),
        }
    }

    #[test]
    fn lines_are_prefixed_only_where_more_than_one_writes() {
        let prefix = |component, replica| Prefix { component, replica, time: false };
        let out = line(LogStream::Stdout);
        assert_eq!(prefix(false, false).line(&out), "hello");
        assert_eq!(prefix(true, false).line(&out), "api | hello");
        assert_eq!(prefix(false, true).line(&out), "#2 | hello");
        assert_eq!(prefix(true, true).line(&out), "api#2 | hello");
    }

    #[test]
    fn times_come_first_and_wefts_own_lines_are_marked() {
        let prefix = Prefix { component: false, replica: false, time: true };
        let text = prefix.line(&line(LogStream::Weft));
        assert_eq!(text, "1970-01-01T00:00:01.000000Z [weft] hello");
    }
}
