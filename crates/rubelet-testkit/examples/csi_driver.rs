//! The CSI driver of the tests as a program, for experiments by hand: `csi_driver ROOT_DIR DATA_DIR NAME [HANDLE…]` makes
//! the volumes, registers at the node with that root directory, reads faults from its input, one a line
//! (`NodeStageVolume hang 1`), and prints its calls when the input says `calls`. It ends with its input.

use std::io::BufRead as _;
use std::path::Path;

use rubelet_testkit::csi_driver::{Character, CsiDriver, Rule};

const GIB: i64 = 1 << 30;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [root_dir, data, name, handles @ ..] = arguments.as_slice() else {
        return Err("usage: csi_driver ROOT_DIR DATA_DIR NAME [HANDLE…]".into());
    };
    let mut driver = CsiDriver::new(Character::named(name), name, Path::new(root_dir), Path::new(data))?;
    for handle in handles {
        let folder = driver.provide(handle, GIB)?;
        println!("{handle}: {}", folder.display());
    }
    driver.start()?;
    for line in std::io::stdin().lock().lines() {
        match line?.trim() {
            "" => {}
            "calls" => driver.calls().iter().for_each(|call| println!("{call}")),
            rule => match rule.parse::<Rule>() {
                Ok(rule) => drop(driver.fault(rule)),
                Err(problem) => eprintln!("{problem}"),
            },
        }
    }
    Ok(())
}
