//! Block devices of control groups, file systems of the node and writable layers. Called by `cadvisor`.
//!
//! Of containers the kernel counts bytes and operations per device; time, sectors and merges it counts for whole disks
//! only, and they are told with the root.

use super::subjects::Subject;
use super::{Family, Samples, Tell, between, counter, gauge};
use crate::stats::exposition::Value;
use crate::stats::usage::{DeviceIo, DiskCounters, FsUsage};

pub(super) const FAMILIES: &[Family] = &[
    counter(
        "container_blkio_device_usage_total",
        "Bytes read and written, by device",
        Tell::Each(|subject, samples| {
            let devices = &subject.group.devices;
            for (index, device) in devices.iter().enumerate() {
                let same = |other: &DeviceIo| identity(other) == identity(device);
                if devices.iter().take(index).any(same) {
                    continue;
                }
                let (major, minor) = (device.major.to_string(), device.minor.to_string());
                for (operation, bytes) in [("Read", device.read_bytes), ("Write", device.written_bytes)] {
                    let labels = [
                        (between::CONTAINER, "device", device.device.as_str()),
                        (between::IMAGE, "major", major.as_str()),
                        (between::IMAGE, "minor", minor.as_str()),
                        (between::NAMESPACE, "operation", operation),
                    ];
                    samples.push(&labels, bytes);
                }
            }
        }),
    ),
    gauge(
        "container_fs_inodes_free",
        "Free inodes of the file system",
        Tell::Each(|subject, samples| filesystems(subject, samples, |fs| fs.inodes_free)),
    ),
    gauge(
        "container_fs_inodes_total",
        "Inodes of the file system",
        Tell::Each(|subject, samples| filesystems(subject, samples, |fs| fs.inodes)),
    ),
    gauge(
        "container_fs_io_current",
        "Operations under way",
        Tell::Each(|subject, samples| disks(subject, samples, |disk| disk.in_progress.into())),
    ),
    counter(
        "container_fs_io_time_seconds_total",
        "Time in which operations were under way, in seconds",
        Tell::Each(|subject, samples| disks(subject, samples, |disk| Value::milliseconds(disk.io_ms))),
    ),
    counter(
        "container_fs_io_time_weighted_seconds_total",
        "Time in which operations were under way, each counted, in seconds",
        Tell::Each(|subject, samples| {
            disks(subject, samples, |disk| Value::milliseconds(disk.weighted_io_ms))
        }),
    ),
    gauge(
        "container_fs_limit_bytes",
        "Size of the file system, in bytes",
        Tell::Each(|subject, samples| filesystems(subject, samples, |fs| fs.capacity)),
    ),
    counter(
        "container_fs_read_seconds_total",
        "Time spent reading, in seconds",
        Tell::Each(|subject, samples| disks(subject, samples, |disk| Value::milliseconds(disk.read_ms))),
    ),
    counter(
        "container_fs_reads_bytes_total",
        "Bytes read",
        Tell::Each(|subject, samples| devices(subject, samples, |device| device.read_bytes, None)),
    ),
    counter(
        "container_fs_reads_merged_total",
        "Reads merged with others",
        Tell::Each(|subject, samples| disks(subject, samples, |disk| disk.reads_merged.into())),
    ),
    counter(
        "container_fs_reads_total",
        "Reads completed",
        Tell::Each(|subject, samples| {
            devices(subject, samples, |device| device.reads, Some(|disk| disk.reads))
        }),
    ),
    counter(
        "container_fs_sector_reads_total",
        "Sectors read",
        Tell::Each(|subject, samples| disks(subject, samples, |disk| disk.sectors_read.into())),
    ),
    counter(
        "container_fs_sector_writes_total",
        "Sectors written",
        Tell::Each(|subject, samples| disks(subject, samples, |disk| disk.sectors_written.into())),
    ),
    gauge(
        "container_fs_usage_bytes",
        "Bytes used of the file system",
        Tell::Each(|subject, samples| filesystems(subject, samples, |fs| fs.used)),
    ),
    counter(
        "container_fs_write_seconds_total",
        "Time spent writing, in seconds",
        Tell::Each(|subject, samples| disks(subject, samples, |disk| Value::milliseconds(disk.write_ms))),
    ),
    counter(
        "container_fs_writes_bytes_total",
        "Bytes written",
        Tell::Each(|subject, samples| devices(subject, samples, |device| device.written_bytes, None)),
    ),
    counter(
        "container_fs_writes_merged_total",
        "Writes merged with others",
        Tell::Each(|subject, samples| disks(subject, samples, |disk| disk.writes_merged.into())),
    ),
    counter(
        "container_fs_writes_total",
        "Writes completed",
        Tell::Each(|subject, samples| {
            devices(subject, samples, |device| device.writes, Some(|disk| disk.writes))
        }),
    ),
];

fn identity(device: &DeviceIo) -> (&str, u64, u64) {
    (&device.device, device.major, device.minor)
}

/// The group's own devices, those with one name (or none) together; with the root also the disks it has no figures of.
fn devices(
    subject: &Subject<'_>,
    samples: &mut Samples<'_>,
    figure: fn(&DeviceIo) -> u64,
    of_disk: Option<fn(&DiskCounters) -> u64>,
) {
    let devices = &subject.group.devices;
    for (index, device) in devices.iter().enumerate() {
        let same = |other: &&DeviceIo| other.device == device.device;
        if !devices.iter().take(index).any(|other| same(&other)) {
            let sum = devices.iter().filter(same).map(figure).fold(0, u64::saturating_add);
            samples.push(&[(between::CONTAINER, "device", &device.device)], sum);
        }
    }
    let Some(of_disk) = of_disk else { return };
    each_disk(subject, |device, disk| {
        if !devices.iter().any(|other| other.device == device) {
            samples.push(&[(between::CONTAINER, "device", device)], of_disk(disk));
        }
    });
}

/// The disks of the node's file systems.
fn disks(subject: &Subject<'_>, samples: &mut Samples<'_>, figure: fn(&DiskCounters) -> Value) {
    each_disk(subject, |device, disk| {
        samples.push(&[(between::CONTAINER, "device", device)], figure(disk));
    });
}

fn each_disk(subject: &Subject<'_>, mut with: impl FnMut(&str, &DiskCounters)) {
    let all = subject.filesystems;
    for (index, filesystem) in all.iter().enumerate() {
        let device = &filesystem.fs.device;
        let again = all.iter().take(index).any(|other| other.disk.is_some() && other.fs.device == *device);
        if let Some(disk) = filesystem.disk.as_ref().filter(|_| !again) {
            with(device, disk);
        }
    }
}

/// The node's file systems, or a container's layer where its device is known.
fn filesystems(subject: &Subject<'_>, samples: &mut Samples<'_>, figure: fn(&FsUsage) -> Option<u64>) {
    let all = subject.filesystems;
    for (index, filesystem) in all.iter().enumerate() {
        let fs = &filesystem.fs;
        let again =
            all.iter().take(index).any(|other| other.fs.device == fs.device && figure(&other.fs).is_some());
        if let Some(value) = figure(fs).filter(|_| !again) {
            samples.push(&[(between::CONTAINER, "device", &fs.device)], value);
        }
    }
    let layer = subject.layer.filter(|layer| !layer.device.is_empty());
    if let Some((layer, value)) = layer.and_then(|layer| Some((layer, figure(layer)?))) {
        samples.push(&[(between::CONTAINER, "device", &layer.device)], value);
    }
}
