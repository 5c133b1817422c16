//! An inventory for tests: any number of GPUs whose readings are given, one after the other.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use super::inventory::{Device, Inventory, InventoryError, Reading};

/// What the next looks show.
type Script = VecDeque<Result<Reading, String>>;

/// GPUs by UUID. The last reading of each is repeated.
#[derive(Debug, Default)]
pub struct FakeInventory {
    gpus: Mutex<BTreeMap<String, (Device, Script)>>,
}

impl FakeInventory {
    /// A GPU with an idle reading.
    pub fn with(devices: impl IntoIterator<Item = Device>) -> FakeInventory {
        let idle = || VecDeque::from([Ok(Reading { processes: Some(Vec::new()), ..Reading::default() })]);
        let gpus = devices.into_iter().map(|d| (d.uuid.clone(), (d, idle()))).collect();
        FakeInventory { gpus: Mutex::new(gpus) }
    }

    /// What the next looks at a GPU show; the last one is what all later looks show.
    pub fn script(&self, uuid: &str, readings: impl IntoIterator<Item = Result<Reading, String>>) {
        let mut gpus = self.gpus.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, queue)) = gpus.get_mut(uuid) {
            *queue = readings.into_iter().collect();
        }
    }
}

impl Inventory for FakeInventory {
    fn devices(&self) -> Result<Vec<Device>, InventoryError> {
        let gpus = self.gpus.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(gpus.values().map(|(device, _)| device.clone()).collect())
    }

    fn read(&self, uuid: &str) -> Result<Reading, InventoryError> {
        let mut gpus = self.gpus.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, queue) = gpus.get_mut(uuid).ok_or_else(|| InventoryError::Unknown(uuid.to_owned()))?;
        let now = if queue.len() > 1 { queue.pop_front() } else { queue.front().cloned() };
        now.unwrap_or_else(|| Err("no reading".into())).map_err(|message| InventoryError::Failed {
            uuid: uuid.to_owned(),
            what: "it cannot be read",
            message,
        })
    }

    fn lock_clocks(&self, uuid: &str, _sm_mhz: u32) -> Result<(), InventoryError> {
        self.read(uuid).map(drop)
    }

    fn unlock_clocks(&self, uuid: &str) -> Result<(), InventoryError> {
        self.read(uuid).map(drop)
    }
}
