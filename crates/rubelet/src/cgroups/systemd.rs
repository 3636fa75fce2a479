//! Groups that systemd keeps: each is a slice, with the settings that systemd has a property for.
//!
//! Owns what settings are called as properties of units (as libcontainer sets them). What systemd has no property for,
//! and the exact numbers of what it rounds, are written to the files as without it; the properties are there because
//! systemd writes its own again, at a reload and when something begins below. A quota is then up to 1 % of a CPU more.
//! On a machine without systemd, slices are plain directories.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::future::BoxFuture;
use rubelet_core::resources::{GroupSettings, cpu_weight};
use rubelet_systemd::{Bus, Property};
use tokio::sync::Mutex;
use tracing::warn;

use super::writer::{CgroupWriter, FileWriter, WriteError};

/// A machine that systemd manages has this folder (`sd_booted(3)`).
const BOOTED: &str = "/run/systemd/system";
/// No limit, in systemd's words.
const INFINITY: u64 = u64::MAX;
/// systemd keeps a quota in steps of 1 % of a CPU: 10 ms of each second.
const QUOTA_STEP: u64 = 10_000;

/// Has systemd make and set groups.
pub struct SystemdWriter {
    files: FileWriter,
    is_unified: bool,
    /// The connection; made when it is first needed, and anew when it broke.
    bus: Mutex<Option<Bus>>,
    is_booted: bool,
    warned: AtomicBool,
}

impl SystemdWriter {
    /// Over the system's bus for slices; `files` for what is left, and for all of other groups.
    pub fn new(files: FileWriter, is_unified: bool) -> Self {
        let is_booted = Path::new(BOOTED).is_dir();
        Self { files, is_unified, bus: Mutex::new(None), is_booted, warned: AtomicBool::new(false) }
    }

    /// The unit of a group; none when it is no slice or there is no systemd.
    fn unit<'a>(&self, group: &'a str) -> Option<&'a str> {
        let name = group.rsplit('/').next().filter(|name| name.ends_with(".slice"))?;
        if !self.is_booted && !self.warned.swap(true, Ordering::Relaxed) {
            warn!("the cgroup driver is systemd and systemd does not run here: slices are plain directories");
        }
        self.is_booted.then_some(name)
    }

    /// Asks systemd, once more over a new connection when the old one broke.
    async fn ask<'a, F>(&'a self, question: impl Fn(Bus) -> F) -> Result<(), WriteError>
    where
        F: Future<Output = Result<(), rubelet_systemd::BusError>> + 'a,
    {
        let known = self.bus.lock().await.clone();
        if let Some(bus) = known {
            match question(bus).await {
                Err(rubelet_systemd::BusError::Broken { .. }) => {}
                answer => return answer.map_err(|error| WriteError::Driver(error.to_string())),
            }
        }
        let bus = Bus::system().await.map_err(|error| WriteError::Driver(error.to_string()))?;
        *self.bus.lock().await = Some(bus.clone());
        question(bus).await.map_err(|error| WriteError::Driver(error.to_string()))
    }
}

impl CgroupWriter for SystemdWriter {
    fn make<'a>(
        &'a self,
        group: &'a str,
        settings: &'a GroupSettings,
    ) -> BoxFuture<'a, Result<(), WriteError>> {
        Box::pin(async move {
            if let Some(unit) = self.unit(group) {
                let mut properties = at_start(group, self.is_unified);
                properties.extend(properties_of(settings, self.is_unified));
                let properties = &properties;
                self.ask(|bus| async move { bus.start_slice(unit, properties).await }).await?;
            }
            self.files.make(group, settings).await
        })
    }

    fn set<'a>(
        &'a self,
        group: &'a str,
        settings: &'a GroupSettings,
    ) -> BoxFuture<'a, Result<(), WriteError>> {
        Box::pin(async move {
            let properties = &properties_of(settings, self.is_unified);
            if let Some(unit) = self.unit(group).filter(|_| !properties.is_empty()) {
                self.ask(|bus| async move { bus.set_properties(unit, properties).await }).await?;
            }
            self.files.set(group, settings).await
        })
    }

    fn remove<'a>(&'a self, group: &'a str) -> BoxFuture<'a, Result<(), WriteError>> {
        Box::pin(async move {
            if let Some(unit) = self.unit(group) {
                self.ask(|bus| async move { bus.stop_unit(unit).await }).await?;
            }
            self.files.remove(group).await
        })
    }
}

type Properties = Vec<(&'static str, Property)>;

/// What a slice is started with.
fn at_start(group: &str, is_unified: bool) -> Properties {
    let input_output = if is_unified { "IOAccounting" } else { "BlockIOAccounting" };
    let mut properties = vec![("Description", Property::Text(format!("pods of the kubelet ({group})")))];
    let above = group.rsplit('/').nth(1).filter(|name| name.ends_with(".slice"));
    if let Some(above) = above {
        properties.push(("Wants", Property::Units(vec![above.to_owned()])));
    }
    for accounting in ["MemoryAccounting", "CPUAccounting", "TasksAccounting", input_output] {
        properties.push((accounting, Property::Flag(true)));
    }
    properties.push(("DefaultDependencies", Property::Flag(false)));
    properties
}

/// Settings as properties of a unit.
fn properties_of(settings: &GroupSettings, is_unified: bool) -> Properties {
    let mut properties = vec![];
    let mut number = |name, value: i64| {
        // Below zero is no limit, everywhere.
        properties.push((name, Property::Number(u64::try_from(value).unwrap_or(INFINITY))));
    };
    if let Some(shares) = settings.cpu_shares {
        if is_unified { number("CPUWeight", cpu_weight(shares)) } else { number("CPUShares", shares) }
    }
    if let Some(memory) = settings.memory.filter(|memory| *memory != 0) {
        number(if is_unified { "MemoryMax" } else { "MemoryLimit" }, memory);
    }
    if let Some(pids) = settings.pids {
        number("TasksMax", if pids > 0 { pids } else { -1 });
    }
    if let Some(quota) = settings.cpu_quota.filter(|quota| *quota != 0) {
        properties.push(("CPUQuotaPerSecUSec", Property::Number(per_second(quota, settings.cpu_period))));
        if let Some(period) = settings.cpu_period.and_then(|period| u64::try_from(period).ok()) {
            properties.push(("CPUQuotaPeriodUSec", Property::Number(period)));
        }
    }
    if !is_unified {
        // systemd has no cpuset on the older generation.
        return properties;
    }
    if let Some(cpus) = settings.cpus.as_ref().filter(|cpus| !cpus.is_empty()) {
        let mut bits = vec![];
        for cpu in cpus.iter() {
            let at = usize::try_from(cpu / 8).unwrap_or(0);
            bits.resize(bits.len().max(at + 1), 0_u8);
            if let Some(byte) = bits.get_mut(at) {
                *byte |= 1 << (cpu % 8);
            }
        }
        properties.push(("AllowedCPUs", Property::Bits(bits)));
    }
    for (file, name) in [
        ("memory.min", "MemoryMin"),
        ("memory.low", "MemoryLow"),
        ("memory.high", "MemoryHigh"),
        ("memory.swap.max", "MemorySwapMax"),
    ] {
        let value = settings.unified.get(file).map(String::as_str);
        let value = value.and_then(|text| if text == "max" { Some(INFINITY) } else { text.parse().ok() });
        properties.extend(value.map(|value| (name, Property::Number(value))));
    }
    properties
}

/// A quota as time of each second, rounded up to what systemd can keep.
fn per_second(quota: i64, period: Option<i64>) -> u64 {
    let Ok(quota) = u64::try_from(quota) else { return INFINITY };
    let period = period.and_then(|period| u64::try_from(period).ok()).filter(|period| *period > 0);
    let exact = u128::from(quota) * 1_000_000 / u128::from(period.unwrap_or(100_000));
    u64::try_from(exact.div_ceil(u128::from(QUOTA_STEP)) * u128::from(QUOTA_STEP)).unwrap_or(INFINITY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(settings: &GroupSettings, v1: &str, v2: &str) {
        for (is_unified, expected) in [(false, v1), (true, v2)] {
            let told = properties_of(settings, is_unified).into_iter().map(|(name, value)| match value {
                Property::Number(INFINITY) => format!("{name}=infinity"),
                Property::Number(number) => format!("{name}={number}"),
                Property::Bits(bits) => format!("{name}={bits:?}"),
                other => format!("{name}={other:?}"),
            });
            assert_eq!(told.collect::<Vec<_>>().join(" "), expected, "unified: {is_unified}");
        }
    }

    #[test]
    fn settings_are_properties_of_a_unit() {
        check(&GroupSettings::default(), "", "");
        let settings = GroupSettings {
            cpu_shares: Some(1024),
            cpu_quota: Some(12_345),
            cpu_period: Some(100_000),
            memory: Some(1 << 20),
            pids: Some(100),
            cpus: Some("0-1,9".parse().unwrap()),
            unified: [
                ("memory.high".to_owned(), "max".to_owned()),
                ("memory.min".to_owned(), "7".to_owned()),
            ]
            .into(),
            ..Default::default()
        };
        check(
            &settings,
            "CPUShares=1024 MemoryLimit=1048576 TasksMax=100 CPUQuotaPerSecUSec=130000 CPUQuotaPeriodUSec=100000",
            "CPUWeight=39 MemoryMax=1048576 TasksMax=100 CPUQuotaPerSecUSec=130000 CPUQuotaPeriodUSec=100000 \
             AllowedCPUs=[3, 2] MemoryMin=7 MemoryHigh=infinity",
        );
        let none =
            GroupSettings { cpu_quota: Some(-1), memory: Some(-1), pids: Some(0), ..Default::default() };
        check(
            &none,
            "MemoryLimit=infinity TasksMax=infinity CPUQuotaPerSecUSec=infinity",
            "MemoryMax=infinity TasksMax=infinity CPUQuotaPerSecUSec=infinity",
        );
    }

    #[test]
    fn a_slice_wants_the_one_above_it() {
        let of = |group| {
            at_start(group, true).into_iter().find(|(name, _)| *name == "Wants").map(|(_, value)| value)
        };
        let above = Property::Units(vec!["kubepods.slice".to_owned()]);
        assert_eq!(of("/kubepods.slice/kubepods-pod1.slice"), Some(above));
        assert_eq!(of("/kubepods.slice"), None);
    }
}
