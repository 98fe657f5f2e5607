//! Modes and policies as a group's machine: every node of the cluster is to hold them, so that
//! every leader of sessions checks against the same ones.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{RwLock, RwLockReadGuard};
use tokio::sync::watch;
use weft_agreement::{Group, Image, Machine, MachineError, ProposeError};
use weft_protocol::CatalogueItem;
use weft_session::{Catalogue, CatalogueChange, FORMAT};
use weft_wire::codec;

use crate::convert;
use crate::lead::Agreement;
use crate::policies::{self, PolicyError};

/// What is known elsewhere is waited for so long.
const FRESH: Duration = Duration::from_secs(3);

/// Layout of a stored change.
const VERSION: [u8; 2] = [1, 0];

/// All modes and policies of this node. Cheap to clone.
#[derive(Clone)]
pub struct Modes(Arc<Inner>);

struct Inner {
    catalogue: RwLock<Catalogue>,
    /// Counts changes of modes and of policies.
    changes: watch::Sender<(u64, u64)>,
    /// How many groups share the sessions.
    groups: watch::Sender<u8>,
    agreement: Agreement,
}

impl std::fmt::Debug for Modes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Modes").field("changes", &*self.0.changes.borrow()).finish_non_exhaustive()
    }
}

impl Default for Modes {
    fn default() -> Self {
        Self::by(Agreement::none())
    }
}

/// What became of a change: the mode's final name, or the text for the client.
type Outcome = Result<String, String>;

impl Modes {
    /// Name of the group.
    pub const GROUP: &'static str = "catalogue";

    /// Modes and policies whose changes are agreed on; none can be made until [`Modes::agree_by`].
    pub fn agreed() -> Self {
        Self::by(Agreement::awaited())
    }

    fn by(agreement: Agreement) -> Self {
        let changes = watch::Sender::new((0, 0));
        let catalogue = Catalogue::default();
        let groups = watch::Sender::new(catalogue.slots().groups());
        Self(Arc::new(Inner { catalogue: RwLock::new(catalogue), changes, groups, agreement }))
    }

    /// Policies are the built-in ones and those of the `*.json` files in `dir`, and stay so: on this
    /// node, so all nodes that may lead sessions are to have the same files.
    ///
    /// # Errors
    /// Which file is wrong first, and what is wrong with it; or what the OS says of the directory.
    pub fn with_policies(self, dir: &Path) -> Result<Self, PolicyError> {
        let mut fixed = Catalogue::default();
        for (path, read) in policies::read(dir, &mut fixed)? {
            read.map_err(|why| PolicyError { path, why })?;
        }
        let mut now = self.0.catalogue.write();
        *now = std::mem::take(&mut *now).fixed_as_in(&fixed);
        drop(now);
        Ok(self)
    }

    /// The machine to give to consensus.
    pub fn machine(&self) -> Box<dyn Machine> {
        Box::new(self.clone())
    }

    /// Changes go through `group` from now on.
    pub fn agree_by(&self, group: Group) {
        self.0.agreement.by(group);
    }

    /// What agrees on changes, once that is known.
    pub fn group(&self) -> Option<Group> {
        self.agreement().group().ok().flatten()
    }

    /// Whether changes are agreed on, rather than made at once and kept nowhere.
    pub fn is_agreed(&self) -> bool {
        !matches!(self.0.agreement.group(), Ok(None))
    }

    pub(crate) fn agreement(&self) -> &Agreement {
        &self.0.agreement
    }

    /// Waits until every change acknowledged before, on any node, is made here. Without a leader
    /// to ask, what is here has to do.
    pub(crate) async fn fresh(&self) {
        if let Err(error) = self.0.agreement.fresh(FRESH).await {
            tracing::debug!(%error, "modes and policies may be old here");
        }
    }

    /// As it is here now; to be let go of at once.
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Catalogue> {
        self.0.catalogue.read_recursive()
    }

    /// Follows how many groups share the sessions, as known here.
    pub fn groups(&self) -> watch::Receiver<u8> {
        self.0.groups.subscribe()
    }

    pub(crate) fn changes(&self) -> watch::Receiver<(u64, u64)> {
        self.0.changes.subscribe()
    }

    pub(crate) fn item(&self) -> CatalogueItem {
        let (modes, policies) = *self.0.changes.borrow();
        let all = self.read().policies("").into_iter().map(convert::policy).collect();
        CatalogueItem { modes, policies, all }
    }

    /// Checks a change and has it agreed on.
    pub(crate) async fn change(
        &self,
        change: CatalogueChange,
        within: Duration,
    ) -> Result<Outcome, ProposeError> {
        if let Err(why) = self.read().check(&change) {
            return Ok(Err(why.to_string()));
        }
        let group = match self.0.agreement.group() {
            Ok(Some(group)) => group,
            Ok(None) => return Ok(self.make(change)),
            Err(()) => return Err(ProposeError::NotLeader { leader: None }),
        };
        let mut bytes = VERSION.to_vec();
        codec::encode_into(&change, &mut bytes)
            .map_err(|error| ProposeError::Refused(error.to_string()))?;
        let done = group.propose(bytes, within).await?;
        codec::decode(&done.answer).map_err(|error| ProposeError::Storage(error.to_string()))
    }

    fn make(&self, change: CatalogueChange) -> Outcome {
        let kind = match change {
            CatalogueChange::RegisterMode(_)
            | CatalogueChange::UnregisterMode { .. }
            | CatalogueChange::PromoteMode { .. } => (1, 0),
            CatalogueChange::RegisterPolicy(_) | CatalogueChange::UnregisterPolicy { .. } => (0, 1),
            CatalogueChange::RaiseGroups { .. } => (0, 0),
        };
        let done = self.0.catalogue.write().apply(change).map_err(|why| why.to_string());
        if done.is_ok() {
            self.tell(kind);
        }
        done
    }

    /// Tells whoever follows of so many changes of modes and of policies, and of new groups.
    fn tell(&self, (of_modes, of_policies): (u64, u64)) {
        self.0.changes.send_if_modified(|(modes, policies)| {
            *modes += of_modes;
            *policies += of_policies;
            of_modes + of_policies > 0
        });
        let count = self.read().slots().groups();
        self.0.groups.send_if_modified(|known| std::mem::replace(known, count) != count);
    }
}

impl Machine for Modes {
    fn apply(&mut self, index: u64, commands: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let one = |bytes: &Vec<u8>| {
            let body = bytes.strip_prefix(VERSION.as_slice());
            let change = body.and_then(|body| codec::decode::<CatalogueChange>(body).ok());
            let done = match change {
                Some(change) => self.make(change),
                None => {
                    tracing::error!(
                        index,
                        "a change of modes or policies cannot be read: this node may differ from the others now"
                    );
                    Err("the change cannot be read by this version of weft".to_owned())
                }
            };
            codec::encode(&done).unwrap_or_default()
        };
        commands.iter().map(one).collect()
    }

    fn snapshot(&self) -> Result<Image, MachineError> {
        let bytes = self.read().to_bytes().map_err(|error| MachineError(error.to_string()))?;
        Ok(Image { version: FORMAT, bytes })
    }

    fn restore(&mut self, image: &Image) -> Result<(), MachineError> {
        let catalogue = Catalogue::from_bytes(&image.bytes)
            .map_err(|error| MachineError(format!("modes and policies: {error}")))?;
        let mut now = self.0.catalogue.write();
        *now = catalogue.fixed_as_in(&now);
        drop(now);
        self.tell((1, 1));
        Ok(())
    }
}
