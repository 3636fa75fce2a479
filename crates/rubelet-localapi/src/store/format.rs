//! The version of what is in the file. An older file is brought up to date step by step, a newer one is left alone.
//!
//! To change the format: append a step to [`STEPS`] that turns a file of the last format into one of the next. Steps
//! are never changed or removed once released. Called when a file is opened.

use std::path::Path;

use redb::{Database, ReadableTable, WriteTransaction};

use super::error::{OpenError, StoreError};
use super::tables::{LOG, META, META_FORMAT, OBJECTS, Position};

/// Brings a file from one format to the next, within a transaction that also records the new number.
pub(super) type Step = fn(&WriteTransaction) -> Result<(), redb::Error>;

/// `STEPS[0]` leads from format 1 to format 2, and so on.
pub(super) const STEPS: &[Step] = &[];

/// Makes an empty store of the newest format of `steps`.
pub(super) fn create(database: &Database, steps: &[Step]) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut meta = transaction.open_table(META)?;
        meta.insert(META_FORMAT, newest(steps))?;
        Position::START.store(&mut meta)?;
        transaction.open_table(OBJECTS)?;
        transaction.open_table(LOG)?;
    }
    transaction.commit()?;
    Ok(())
}

/// Runs the steps that are missing. Each is its own transaction: who is interrupted goes on from where it was.
pub(super) fn upgrade(database: &Database, steps: &[Step], path: &Path) -> Result<(), OpenError> {
    let failed = |error: redb::Error| OpenError::Store(StoreError::new(path, error));
    loop {
        let transaction = database.begin_write().map_err(|error| failed(error.into()))?;
        let found = recorded(&transaction).map_err(failed)?;
        let step = match found.checked_sub(1).map(|index| steps.get(index as usize)) {
            Some(Some(step)) => step,
            Some(None) if found == newest(steps) => {
                return transaction.abort().map_err(|error| failed(error.into()));
            }
            Some(None) => {
                let (path, known) = (path.to_path_buf(), newest(steps));
                return Err(OpenError::Newer { path, found, known });
            }
            None => return Err(failed(redb::Error::Corrupted("it does not tell its format".to_owned()))),
        };
        tracing::info!(path = %path.display(), from = found, to = found + 1, "upgrading the store");
        let stepped = step(&transaction).and_then(|()| {
            transaction.open_table(META)?.insert(META_FORMAT, found + 1)?;
            transaction.commit()?;
            Ok(())
        });
        stepped.map_err(failed)?;
    }
}

fn newest(steps: &[Step]) -> u64 {
    steps.len() as u64 + 1
}

/// The format in the file, 0 when it tells none.
fn recorded(transaction: &WriteTransaction) -> Result<u64, redb::Error> {
    if !transaction.list_tables()?.any(|table| redb::TableHandle::name(&table) == "meta") {
        return Ok(0);
    }
    let found = transaction.open_table(META)?.get(META_FORMAT)?.map_or(0, |number| number.value());
    Ok(found)
}

#[cfg(test)]
mod tests {
    use redb::backends::InMemoryBackend;
    use redb::{ReadableDatabase, TableDefinition};

    use super::*;

    const NOTES: TableDefinition<'static, &str, &str> = TableDefinition::new("notes");

    fn first(transaction: &WriteTransaction) -> Result<(), redb::Error> {
        transaction.open_table(NOTES)?.insert("first", "done")?;
        Ok(())
    }

    fn second(transaction: &WriteTransaction) -> Result<(), redb::Error> {
        let mut notes = transaction.open_table(NOTES)?;
        let before = notes.get("first")?.map(|note| note.value().to_owned());
        notes.insert("second", format!("after {}", before.unwrap_or_default()).as_str())?;
        Ok(())
    }

    fn failing(transaction: &WriteTransaction) -> Result<(), redb::Error> {
        transaction.open_table(NOTES)?.insert("failing", "was here")?;
        Err(redb::Error::Io(std::io::Error::other("a step fails")))
    }

    fn database(steps: &[Step]) -> Database {
        let database = Database::builder().create_with_backend(InMemoryBackend::new()).unwrap();
        create(&database, steps).unwrap();
        database
    }

    fn notes(database: &Database) -> Vec<String> {
        let transaction = database.begin_read().unwrap();
        let Ok(table) = transaction.open_table(NOTES) else { return vec![] };
        table.iter().unwrap().map(|row| row.unwrap().1.value().to_owned()).collect()
    }

    #[test]
    fn steps_run_once_and_in_order() {
        let path = Path::new("here");
        let old = database(&[]);
        upgrade(&old, &[], path).unwrap();
        assert_eq!(notes(&old), [""; 0]);
        upgrade(&old, &[first, second], path).unwrap();
        assert_eq!(notes(&old), ["done", "after done"]);
        // None is run twice, and a new file needs none.
        upgrade(&old, &[failing, failing], path).unwrap();
        upgrade(&database(&[failing]), &[failing], path).unwrap();
    }

    #[test]
    fn a_step_that_fails_leaves_nothing_and_is_run_again() {
        let path = Path::new("here");
        let old = database(&[]);
        let error = upgrade(&old, &[first, failing], path).unwrap_err();
        assert!(matches!(error, OpenError::Store(StoreError::Io { .. })), "{error:?}");
        assert_eq!(notes(&old), ["done"]);
        upgrade(&old, &[failing, second], path).unwrap();
        assert_eq!(notes(&old), ["done", "after done"]);
    }

    #[test]
    fn a_newer_file_is_left_alone() {
        let error = upgrade(&database(&[first, second]), &[first], Path::new("here")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the store here has format 3, this version knows formats up to 2: \
             run the version that wrote it, or restore a backup made by this one"
        );
    }

    #[test]
    fn a_file_without_format_is_damaged() {
        let empty = Database::builder().create_with_backend(InMemoryBackend::new()).unwrap();
        let error = upgrade(&empty, &[], Path::new("here")).unwrap_err();
        assert_eq!(error.to_string(), "the store here is damaged, restore it from a backup");
    }
}
