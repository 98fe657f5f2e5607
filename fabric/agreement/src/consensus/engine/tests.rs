//! openraft's own storage suite over ours.

use std::sync::Arc;

use openraft::testing::{StoreBuilder, Suite};
use weft_wire::SystemClock;

use super::types::{StorageError, StorageIoError, Types};
use super::{LogStore, MachineStore, open_checkpoints};
use crate::consensus::writer::LogWriter;
use crate::consensus::{Image, Machine, MachineError};

struct Nothing;

impl Machine for Nothing {
    fn apply(&mut self, _: u64, commands: &[Vec<u8>]) -> Vec<Vec<u8>> {
        commands.to_vec()
    }

    fn snapshot(&self) -> Result<Image, MachineError> {
        Ok(Image { version: 1, bytes: vec![1, 2, 3] })
    }

    fn restore(&mut self, _: &Image) -> Result<(), MachineError> {
        Ok(())
    }
}

struct Builder;

impl StoreBuilder<Types, LogStore, MachineStore, tempfile::TempDir> for Builder {
    async fn build(&self) -> Result<(tempfile::TempDir, LogStore, MachineStore), StorageError> {
        let failed = |text: String| StorageIoError::write(openraft::AnyError::error(text));
        let dir = tempfile::tempdir().map_err(|error| failed(error.to_string()))?;
        let opened = async {
            let writer = LogWriter::open(dir.path()).await.map_err(|e| e.to_string())?;
            let log = LogStore::open(writer, "suite").await.map_err(|e| e.to_string())?;
            let store = open_checkpoints(dir.path()).await.map_err(|e| e.to_string())?;
            let clock = Arc::new(SystemClock);
            let machine = MachineStore::open(store, "suite", Box::new(Nothing), clock, false)
                .await
                .map_err(|e| e.to_string())?;
            Ok::<_, String>((log, machine))
        };
        let (log, machine) = opened.await.map_err(failed)?;
        Ok((dir, log, machine))
    }
}

#[test]
fn the_storage_suite_of_openraft_passes() {
    Suite::test_all(Builder).expect("passes");
}
