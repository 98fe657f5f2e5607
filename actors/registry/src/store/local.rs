//! `local.db`: events, alerts and audit of this node (orchestration §6). `synchronous=NORMAL`: power loss
//! may take the last of them.

mod alerts;

use std::path::Path;

use sqlx::Row;
use sqlx::sqlite::SqliteRow;
use uuid::Uuid;
use weft_protocol::{
    AuditRecord, ComponentState, Event, EventFilter, EventKind, NodeChange, Outcome,
};
use weft_store::{Durability, Migration, Store};
use weft_wire::WallTime;

use super::RegistryError;

const MIGRATIONS: &[Migration] = &[
    Migration {
        version: 1,
        sql: "
        CREATE TABLE events (
            seq INTEGER PRIMARY KEY AUTOINCREMENT,
            id BLOB NOT NULL UNIQUE,
            timestamp INTEGER NOT NULL,
            node TEXT NOT NULL,
            service TEXT NOT NULL,
            component TEXT NOT NULL,
            replica INTEGER NOT NULL,
            prev_state TEXT NOT NULL,
            new_state TEXT NOT NULL,
            cause TEXT NOT NULL,
            exit TEXT NOT NULL
        ) STRICT;
        CREATE INDEX events_of ON events (service, component, timestamp);
        CREATE INDEX events_at ON events (timestamp);
        CREATE TABLE audit (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            timestamp INTEGER NOT NULL,
            caller TEXT NOT NULL,
            role TEXT NOT NULL,
            method TEXT NOT NULL,
            target TEXT NOT NULL,
            outcome TEXT NOT NULL,
            error TEXT NOT NULL,
            duration_us INTEGER NOT NULL,
            trace TEXT NOT NULL
        ) STRICT;
        CREATE INDEX audit_at ON audit (timestamp);",
    },
    // How far wall time was believed when rows were last deleted.
    Migration {
        version: 2,
        sql: "
        CREATE TABLE aging (
            id INTEGER PRIMARY KEY CHECK (id = 1),
            trusted INTEGER NOT NULL
        ) STRICT;",
    },
    // Events of nodes, leaders, voters and places. For those, `prev_state` and `new_state` hold
    // what was before and after: a word, a name, or names with commas between them.
    Migration {
        version: 3,
        sql: "
        ALTER TABLE events ADD COLUMN kind TEXT NOT NULL DEFAULT 'component';
        ALTER TABLE events ADD COLUMN consensus_group TEXT NOT NULL DEFAULT '';
        ALTER TABLE events ADD COLUMN term INTEGER NOT NULL DEFAULT 0;
        ALTER TABLE events ADD COLUMN observer TEXT NOT NULL DEFAULT '';",
    },
    // Each firing; `ended` and what follows are of its command.
    Migration {
        version: 4,
        sql: "
        CREATE TABLE alerts (
            seq INTEGER PRIMARY KEY AUTOINCREMENT,
            id BLOB NOT NULL UNIQUE,
            fired_at INTEGER NOT NULL,
            node TEXT NOT NULL,
            service TEXT NOT NULL,
            component TEXT NOT NULL,
            replica INTEGER NOT NULL,
            type TEXT NOT NULL,
            desired TEXT NOT NULL,
            observed TEXT NOT NULL,
            prev_state TEXT NOT NULL,
            transitions INTEGER NOT NULL,
            reason TEXT NOT NULL,
            suppressed INTEGER NOT NULL,
            ended INTEGER NOT NULL,
            exit INTEGER,
            problem TEXT NOT NULL,
            output TEXT NOT NULL
        ) STRICT;
        CREATE INDEX alerts_at ON alerts (fired_at);
        CREATE INDEX alerts_of ON alerts (service, component, fired_at);",
    },
];

/// Most rows that one query answers.
const ROWS_MAX: u32 = 10_000;
/// Rows of events when nobody says how many.
const ROWS_DEFAULT: u32 = 1_000;

/// Cheap to clone.
#[derive(Debug, Clone)]
pub struct LocalStore {
    store: Store,
}

impl LocalStore {
    /// Opens `<data>/local.db`, making it if need be.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn open(data: &Path) -> Result<Self, RegistryError> {
        let store = Store::open(&data.join("local.db"), Durability::Normal, MIGRATIONS).await?;
        Ok(Self { store })
    }

    /// The database.
    pub fn database(&self) -> &Store {
        &self.store
    }

    /// Stores events, leaving alone those whose id is there. Answers the newest sequence number.
    ///
    /// # Errors
    /// [`RegistryError`]; none is stored.
    pub async fn record_events(&self, events: &[Event]) -> Result<i64, RegistryError> {
        let mut write = self.store.begin().await?;
        for event in events {
            let (from, to, group, term) = columns(&event.kind);
            sqlx::query(
                "INSERT OR IGNORE INTO events (id, timestamp, node, service, component, replica,
                                               prev_state, new_state, cause, exit, kind,
                                               consensus_group, term, observer)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
            )
            .bind(event.id.as_bytes().as_slice())
            .bind(event.time.as_micros())
            .bind(&event.node)
            .bind(&event.service)
            .bind(&event.component)
            .bind(event.replica)
            .bind(from)
            .bind(to)
            .bind(&event.cause)
            .bind(&event.exit)
            .bind(event.kind.as_str())
            .bind(group)
            .bind(i64::try_from(term).unwrap_or(i64::MAX))
            .bind(&event.observer)
            .execute(&mut *write)
            .await
            .map_err(|error| write.error("write", error))?;
        }
        let newest = sqlx::query_scalar("SELECT coalesce(max(seq), 0) FROM events")
            .fetch_one(&mut *write)
            .await
            .map_err(|error| write.error("write", error))?;
        write.commit().await?;
        Ok(newest)
    }

    /// The newest events that match, oldest first, with the sequence number that everything
    /// stored later exceeds.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn events(&self, filter: &EventFilter) -> Result<(Vec<Event>, i64), RegistryError> {
        let limit = if filter.limit == 0 { ROWS_DEFAULT } else { filter.limit.min(ROWS_MAX) };
        let since = filter.since.map_or(i64::MIN, WallTime::as_micros);
        // One transaction, so that the number and the rows are of the same moment.
        let mut read = self.store.readers().begin().await.map_err(|error| self.failed(error))?;
        let newest: i64 = sqlx::query_scalar("SELECT coalesce(max(seq), 0) FROM events")
            .fetch_one(&mut *read)
            .await
            .map_err(|error| self.failed(error))?;
        let rows = if filter.service.is_empty() {
            sqlx::query(
                "SELECT * FROM events WHERE timestamp >= ?1 AND (?2 = '' OR component = ?2)
                 ORDER BY timestamp DESC, seq DESC LIMIT ?3",
            )
            .bind(since)
            .bind(&filter.component)
            .bind(limit)
            .fetch_all(&mut *read)
            .await
        } else {
            sqlx::query(
                "SELECT * FROM events
                 WHERE service = ?4 AND timestamp >= ?1 AND (?2 = '' OR component = ?2)
                 ORDER BY timestamp DESC, seq DESC LIMIT ?3",
            )
            .bind(since)
            .bind(&filter.component)
            .bind(limit)
            .bind(&filter.service)
            .fetch_all(&mut *read)
            .await
        }
        .map_err(|error| self.failed(error))?;
        read.rollback().await.map_err(|error| self.failed(error))?;
        let mut events: Vec<Event> = self.rows(&rows)?;
        events.reverse();
        Ok((events, newest))
    }

    /// Events stored after sequence number `after`, in the order they were stored, at most 500,
    /// each with its number. Not filtered.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn events_after(&self, after: i64) -> Result<Vec<(i64, Event)>, RegistryError> {
        let rows = sqlx::query("SELECT * FROM events WHERE seq > ?1 ORDER BY seq LIMIT 500")
            .bind(after)
            .fetch_all(self.store.readers())
            .await
            .map_err(|error| self.failed(error))?;
        rows.iter()
            .map(|row| {
                let seq = row.try_get("seq").map_err(|error| self.failed(error))?;
                Ok((seq, event(row).map_err(|error| self.failed(error))?))
            })
            .collect()
    }

    /// Stores audit records.
    ///
    /// # Errors
    /// [`RegistryError`]; none is stored.
    pub async fn record_audit(&self, records: &[AuditRecord]) -> Result<(), RegistryError> {
        let mut write = self.store.begin().await?;
        for record in records {
            let error: String = record.error.chars().take(256).collect();
            sqlx::query(
                "INSERT INTO audit (timestamp, caller, role, method, target, outcome, error,
                                    duration_us, trace)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            )
            .bind(record.time.as_micros())
            .bind(&record.caller)
            .bind(&record.role)
            .bind(&record.method)
            .bind(&record.target)
            .bind(outcome_text(record.outcome))
            .bind(error)
            .bind(i64::try_from(record.duration_us).unwrap_or(i64::MAX))
            .bind(&record.trace)
            .execute(&mut *write)
            .await
            .map_err(|error| write.error("write", error))?;
        }
        Ok(write.commit().await?)
    }

    /// The newest `limit` (at most 10,000) audit records not before `since`, newest last.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn audit(
        &self,
        since: Option<WallTime>,
        limit: u32,
    ) -> Result<Vec<AuditRecord>, RegistryError> {
        let rows = sqlx::query(
            "SELECT * FROM audit WHERE timestamp >= ?1 ORDER BY timestamp DESC, id DESC LIMIT ?2",
        )
        .bind(since.map_or(i64::MIN, WallTime::as_micros))
        .bind(limit.min(ROWS_MAX))
        .fetch_all(self.store.readers())
        .await
        .map_err(|error| self.failed(error))?;
        let mut records = rows
            .iter()
            .map(|row| audit(row).map_err(|error| self.failed(error)))
            .collect::<Result<Vec<_>, _>>()?;
        records.reverse();
        Ok(records)
    }

    /// How far wall time was believed at the last [`LocalStore::prune`]; `None`: there was none.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn trusted_time(&self) -> Result<Option<WallTime>, RegistryError> {
        let found: Option<i64> = sqlx::query_scalar("SELECT trusted FROM aging WHERE id = 1")
            .fetch_optional(self.store.readers())
            .await
            .map_err(|error| self.failed(error))?;
        Ok(found.map(WallTime::from_micros))
    }

    /// Deletes what is older (alerts with the events), and remembers how far wall time was believed. Answers how many rows
    /// went.
    ///
    /// # Errors
    /// [`RegistryError`]; nothing is deleted.
    pub async fn prune(
        &self,
        events_before: WallTime,
        audit_before: WallTime,
        trusted: WallTime,
    ) -> Result<u64, RegistryError> {
        let mut write = self.store.begin().await?;
        sqlx::query("INSERT OR REPLACE INTO aging (id, trusted) VALUES (1, ?1)")
            .bind(trusted.as_micros())
            .execute(&mut *write)
            .await
            .map_err(|error| write.error("write", error))?;
        let events = sqlx::query("DELETE FROM events WHERE timestamp < ?1")
            .bind(events_before.as_micros())
            .execute(&mut *write)
            .await
            .map_err(|error| write.error("write", error))?;
        let alerts = sqlx::query("DELETE FROM alerts WHERE fired_at < ?1")
            .bind(events_before.as_micros())
            .execute(&mut *write)
            .await
            .map_err(|error| write.error("write", error))?;
        let audit = sqlx::query("DELETE FROM audit WHERE timestamp < ?1")
            .bind(audit_before.as_micros())
            .execute(&mut *write)
            .await
            .map_err(|error| write.error("write", error))?;
        write.commit().await?;
        Ok(events.rows_affected() + alerts.rows_affected() + audit.rows_affected())
    }

    fn rows(&self, rows: &[SqliteRow]) -> Result<Vec<Event>, RegistryError> {
        rows.iter().map(|row| event(row).map_err(|error| self.failed(error))).collect()
    }

    fn failed(&self, error: sqlx::Error) -> RegistryError {
        self.store.error("read", error).into()
    }
}

/// Between names of voters; no name has one in it.
const COMMA: &str = ",";

fn columns(kind: &EventKind) -> (String, String, &str, u64) {
    match kind {
        EventKind::Component { from, to } => {
            (from.as_str().to_owned(), to.as_str().to_owned(), "", 0)
        }
        EventKind::Node { to } => (String::new(), to.as_str().to_owned(), "", 0),
        EventKind::Leader { group, term, from, to } => (from.clone(), to.clone(), group, *term),
        EventKind::Voters { group, from, to } => (from.join(COMMA), to.join(COMMA), group, 0),
        EventKind::Placement { from, to } => (from.clone(), to.clone(), "", 0),
    }
}

fn kind(row: &SqliteRow) -> Result<EventKind, sqlx::Error> {
    let kind: String = row.try_get("kind")?;
    let (from, to): (String, String) = (row.try_get("prev_state")?, row.try_get("new_state")?);
    let group: String = row.try_get("consensus_group")?;
    let names = |text: &str| -> Vec<String> {
        text.split(COMMA).filter(|name| !name.is_empty()).map(str::to_owned).collect()
    };
    // A state that only a newer version knows is shown as unknown.
    let state = |text: &str| text.parse().unwrap_or(ComponentState::Unknown);
    Ok(match kind.as_str() {
        "node" => EventKind::Node { to: to.parse().unwrap_or(NodeChange::Back) },
        "leader" => {
            let term: i64 = row.try_get("term")?;
            EventKind::Leader { group, term: u64::try_from(term).unwrap_or(0), from, to }
        }
        "voters" => EventKind::Voters { group, from: names(&from), to: names(&to) },
        "placement" => EventKind::Placement { from, to },
        _ => EventKind::Component { from: state(&from), to: state(&to) },
    })
}

fn event(row: &SqliteRow) -> Result<Event, sqlx::Error> {
    let id: Vec<u8> = row.try_get("id")?;
    Ok(Event {
        id: Uuid::from_slice(&id).unwrap_or_default(),
        time: WallTime::from_micros(row.try_get("timestamp")?),
        node: row.try_get("node")?,
        service: row.try_get("service")?,
        component: row.try_get("component")?,
        replica: row.try_get("replica")?,
        kind: kind(row)?,
        cause: row.try_get("cause")?,
        exit: row.try_get("exit")?,
        observer: row.try_get("observer")?,
    })
}

fn audit(row: &SqliteRow) -> Result<AuditRecord, sqlx::Error> {
    let outcome: String = row.try_get("outcome")?;
    let duration: i64 = row.try_get("duration_us")?;
    Ok(AuditRecord {
        time: WallTime::from_micros(row.try_get("timestamp")?),
        caller: row.try_get("caller")?,
        role: row.try_get("role")?,
        method: row.try_get("method")?,
        target: row.try_get("target")?,
        outcome: match outcome.as_str() {
            "ok" => Outcome::Ok,
            "denied" => Outcome::Denied,
            _ => Outcome::Failed,
        },
        error: row.try_get("error")?,
        duration_us: u64::try_from(duration).unwrap_or(0),
        trace: row.try_get("trace")?,
    })
}

const fn outcome_text(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Ok => "ok",
        Outcome::Denied => "denied",
        Outcome::Failed => "failed",
    }
}
