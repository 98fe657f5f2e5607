//! Alerts of this node (orchestration §6, §12).

use sqlx::Row;
use sqlx::sqlite::SqliteRow;
use uuid::Uuid;
use weft_protocol::{Alert, AlertFilter, AlertKind, AlertRun};
use weft_wire::WallTime;

use super::{LocalStore, ROWS_DEFAULT, ROWS_MAX};
use crate::store::RegistryError;

/// Texts are cut at this length, in bytes, also where the monitor did not.
const TEXT_MAX: usize = 4096;

impl LocalStore {
    /// Stores alerts; one whose id is there is replaced, and counts as newer than all before.
    /// Answers the newest sequence number.
    ///
    /// # Errors
    /// [`RegistryError`]; none is stored.
    pub async fn record_alerts(&self, alerts: &[Alert]) -> Result<i64, RegistryError> {
        let mut write = self.store.begin().await?;
        for alert in alerts {
            let run = alert.run.as_ref();
            sqlx::query(
                "INSERT OR REPLACE INTO alerts (id, fired_at, node, service, component, replica,
                     type, desired, observed, prev_state, transitions, reason, suppressed, ended,
                     exit, problem, output)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16,
                         ?17)",
            )
            .bind(alert.id.as_bytes().as_slice())
            .bind(alert.time.as_micros())
            .bind(&alert.node)
            .bind(&alert.service)
            .bind(&alert.component)
            .bind(alert.replica)
            .bind(alert.kind.as_str())
            .bind(alert.desired.map_or("", |desired| desired.as_str()))
            .bind(alert.observed.map_or("", |observed| observed.as_str()))
            .bind(alert.prev_state.map_or("", |state| state.as_str()))
            .bind(alert.transitions)
            .bind(cut(&alert.reason))
            .bind(alert.suppressed)
            .bind(run.is_some())
            .bind(run.and_then(|run| run.exit))
            .bind(cut(run.map_or("", |run| &run.problem)))
            .bind(cut(run.map_or("", |run| &run.output)))
            .execute(&mut *write)
            .await
            .map_err(|error| write.error("write", error))?;
        }
        let newest = sqlx::query_scalar("SELECT coalesce(max(seq), 0) FROM alerts")
            .fetch_one(&mut *write)
            .await
            .map_err(|error| write.error("write", error))?;
        write.commit().await?;
        Ok(newest)
    }

    /// The newest alerts that match, oldest first, with the sequence number that everything
    /// stored later exceeds.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn alerts(&self, filter: &AlertFilter) -> Result<(Vec<Alert>, i64), RegistryError> {
        let limit = if filter.limit == 0 { ROWS_DEFAULT } else { filter.limit.min(ROWS_MAX) };
        let mut read = self.store.readers().begin().await.map_err(|error| self.failed(error))?;
        let newest: i64 = sqlx::query_scalar("SELECT coalesce(max(seq), 0) FROM alerts")
            .fetch_one(&mut *read)
            .await
            .map_err(|error| self.failed(error))?;
        let rows = sqlx::query(
            "SELECT * FROM alerts
             WHERE fired_at >= ?1 AND (?2 = '' OR service = ?2) AND (?3 = '' OR component = ?3)
             ORDER BY fired_at DESC, seq DESC LIMIT ?4",
        )
        .bind(filter.since.map_or(i64::MIN, WallTime::as_micros))
        .bind(&filter.service)
        .bind(&filter.component)
        .bind(limit)
        .fetch_all(&mut *read)
        .await
        .map_err(|error| self.failed(error))?;
        read.rollback().await.map_err(|error| self.failed(error))?;
        let mut alerts = rows
            .iter()
            .map(|row| alert(row).map_err(|error| self.failed(error)))
            .collect::<Result<Vec<_>, _>>()?;
        alerts.reverse();
        Ok((alerts, newest))
    }

    /// Alerts stored after sequence number `after`, in the order they were stored, at most 500,
    /// each with its number. Not filtered.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn alerts_after(&self, after: i64) -> Result<Vec<(i64, Alert)>, RegistryError> {
        let rows = sqlx::query("SELECT * FROM alerts WHERE seq > ?1 ORDER BY seq LIMIT 500")
            .bind(after)
            .fetch_all(self.store.readers())
            .await
            .map_err(|error| self.failed(error))?;
        rows.iter()
            .map(|row| {
                let seq = row.try_get("seq").map_err(|error| self.failed(error))?;
                Ok((seq, alert(row).map_err(|error| self.failed(error))?))
            })
            .collect()
    }
}

fn cut(text: &str) -> &str {
    text.get(..text.floor_char_boundary(TEXT_MAX)).unwrap_or_default()
}

fn alert(row: &SqliteRow) -> Result<Alert, sqlx::Error> {
    let id: Vec<u8> = row.try_get("id")?;
    let word = |column: &str| row.try_get::<String, _>(column);
    let run = if row.try_get("ended")? {
        Some(AlertRun {
            exit: row.try_get("exit")?,
            problem: word("problem")?,
            output: word("output")?,
        })
    } else {
        None
    };
    Ok(Alert {
        id: Uuid::from_slice(&id).unwrap_or_default(),
        time: WallTime::from_micros(row.try_get("fired_at")?),
        node: word("node")?,
        service: word("service")?,
        component: word("component")?,
        replica: row.try_get("replica")?,
        // A kind that only a newer version knows.
        kind: word("type")?.parse().unwrap_or(AlertKind::Drift),
        desired: word("desired")?.parse().ok(),
        observed: word("observed")?.parse().ok(),
        prev_state: word("prev_state")?.parse().ok(),
        transitions: row.try_get("transitions")?,
        reason: word("reason")?,
        suppressed: row.try_get("suppressed")?,
        run,
    })
}
