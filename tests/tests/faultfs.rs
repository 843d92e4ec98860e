//! The disks of the harness, mounted: what processes see of them, and what a power loss leaves.

use std::fs::{self, File, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use anyhow::ensure;
use raftkv_tests::allocated_bytes;
use raftkv_tests::faultfs::{Call, Effect, Fault, FaultFs, Loss, NamePromise};
use rustix::fs::{FallocateFlags, fallocate, statvfs};
use rustix::io::Errno;

#[test]
fn files_directories_and_sockets_work_as_on_any_disk() -> anyhow::Result<()> {
    let root = tempfile::tempdir()?;
    let Some(disk) = FaultFs::mount(root.path(), NamePromise::Directory)? else { return Ok(()) };
    let dir = root.path().join("one/two");
    fs::create_dir_all(&dir)?;
    let path = dir.join("file");
    let content: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    fs::write(&path, &content)?;
    ensure!(fs::read(&path)? == content);
    let mut file = File::options().read(true).write(true).open(&path)?;
    file.write_all_at(b"in the middle", 4090)?;
    file.seek(SeekFrom::Start(4090))?;
    let mut part = [0; 13];
    file.read_exact(&mut part)?;
    ensure!(&part == b"in the middle");

    // Appended, cut, allocated.
    File::options().append(true).open(&path)?.write_all(b"end")?;
    ensure!(fs::metadata(&path)?.len() == 3_000_003);
    file.set_len(10)?;
    ensure!(fs::read(&path)? == content[..10]);
    fallocate(&file, FallocateFlags::empty(), 0, 1 << 20)?;
    let meta = file.metadata()?;
    ensure!((meta.len(), meta.blocks() * 512) == (1 << 20, 1 << 20), "{meta:?}");
    File::options().write(true).truncate(true).open(&path)?;
    ensure!(fs::read(&path)?.is_empty());

    // Many names, while some of them go.
    for number in 0..1_000 {
        fs::write(dir.join(format!("{number:04}")), "")?;
    }
    ensure!(fs::read_dir(&dir)?.count() == 1_001);
    fs::rename(&path, root.path().join("moved"))?;
    fs::hard_link(root.path().join("moved"), dir.join("again"))?;
    ensure!(fs::metadata(dir.join("again"))?.nlink() == 2);
    ensure!(fs::remove_dir(&dir).is_err(), "it is not empty");
    fs::remove_dir_all(root.path().join("one"))?;
    ensure!(fs::read_dir(root.path())?.count() == 1);

    // Open and removed.
    fs::write(root.path().join("moved"), "still there")?;
    let mut open = File::open(root.path().join("moved"))?;
    fs::remove_file(root.path().join("moved"))?;
    let mut text = String::new();
    open.read_to_string(&mut text)?;
    ensure!(text == "still there");
    drop((open, file));

    let listener = UnixListener::bind(root.path().join("sock"))?;
    let mut stream = UnixStream::connect(root.path().join("sock"))?;
    stream.write_all(b"hello")?;
    let mut heard = [0; 5];
    listener.accept()?.0.read_exact(&mut heard)?;
    ensure!(&heard == b"hello");
    ensure!(disk.counts().failed == 0);
    Ok(())
}

/// The kernel divides a write at pages; were the second part to fail, the process would hear of a short write and go on, and
/// nobody would have seen the fault.
#[test]
fn a_torn_write_is_always_told_to_its_process() -> anyhow::Result<()> {
    let root = tempfile::tempdir()?;
    let Some(disk) = FaultFs::mount(root.path(), NamePromise::Directory)? else { return Ok(()) };
    let mut file = File::create(root.path().join("file"))?;
    for passes in 0..6 {
        let fired = disk.inject(Fault::new(Call::Write, Effect::Tear).after(passes).times(1));
        for number in 0..=passes {
            // From within a page over several others.
            let told = file.write_all(&[7; 10_001]);
            ensure!(told.is_err() == (number == passes), "write {number} of {passes}: {told:?}");
            ensure!((fired.count() == 1) == told.is_err(), "write {number} of {passes}: {} fired", fired.count());
        }
    }
    Ok(())
}

#[test]
fn locks_exclude_a_second_holder() -> anyhow::Result<()> {
    let root = tempfile::tempdir()?;
    let Some(_disk) = FaultFs::mount(root.path(), NamePromise::Directory)? else { return Ok(()) };
    let first = File::create(root.path().join("LOCK"))?;
    let second = File::open(root.path().join("LOCK"))?;
    first.try_lock()?;
    ensure!(matches!(second.try_lock(), Err(TryLockError::WouldBlock)));
    drop(first);
    second.try_lock()?;
    Ok(())
}

#[test]
fn a_power_loss_takes_what_was_not_synced_and_nothing_else() -> anyhow::Result<()> {
    let root = tempfile::tempdir()?;
    let Some(mut disk) = FaultFs::mount(root.path(), NamePromise::Directory)? else { return Ok(()) };
    let at = |name: &str| root.path().join(name);
    fs::create_dir(at("d"))?;
    let mut file = File::create(at("d/synced"))?;
    file.write_all(b"before")?;
    file.sync_data()?;
    File::open(at("d"))?.sync_all()?;
    File::open(root.path())?.sync_all()?;
    file.write_all(b" and after")?;
    fs::write(at("d/unnamed"), "its bytes are synced, its name is not")?;
    File::open(at("d/unnamed"))?.sync_all()?;
    ensure!(fs::read_to_string(at("d/synced"))? == "before and after");

    // Whoever holds a file is still powered.
    let error = disk.power_loss(Loss::Volatile, 1).expect_err("a file is open");
    ensure!(format!("{error:#}").contains("unmount"), "{error:#}");
    drop(file);
    disk.power_loss(Loss::Volatile, 1)?;
    ensure!(fs::read_to_string(at("d/synced"))? == "before");
    ensure!(!at("d/unnamed").exists());
    let counts = disk.counts();
    ensure!((counts.power_losses, counts.names_lost, counts.changes_lost) == (1, 1, 1), "{counts:?}");

    drop(disk);
    ensure!(fs::read_dir(root.path())?.count() == 0, "unmounted with its handle");
    Ok(())
}

#[test]
fn faults_fire_where_and_when_they_were_asked_for() -> anyhow::Result<()> {
    let root = tempfile::tempdir()?;
    let Some(mut disk) = FaultFs::mount(root.path(), NamePromise::Journal)? else { return Ok(()) };
    let at = |name: &str| root.path().join(name);
    fs::create_dir(at("log"))?;
    fs::create_dir(at("other"))?;

    let fired = disk.inject(Fault::new(Call::Fsync, Effect::Fail(Errno::IO)).below("log").after(1).times(1));
    let mut log = File::create(at("log/a"))?;
    log.write_all(b"first ")?;
    log.sync_data()?;
    File::create(at("other/a"))?.sync_all()?;
    log.write_all(b"second")?;
    let error = log.sync_data().expect_err("the second fsync below log");
    ensure!(error.raw_os_error() == Some(Errno::IO.raw_os_error()), "{error}");
    log.sync_data()?;
    ensure!((fired.count(), disk.counts().failed) == (1, 1));
    drop(log);
    disk.power_loss(Loss::Volatile, 1)?;
    ensure!(fs::read(at("log/a"))? == b"first \0\0\0\0\0\0", "the pages of a failed fsync are lost for good");

    let fired = disk.inject(Fault::new(Call::Fsync, Effect::Delay(Duration::from_millis(150))));
    let slow = File::open(at("log/a"))?;
    let start = Instant::now();
    let thread = std::thread::spawn(move || slow.sync_all());
    fs::write(at("other/b"), "meanwhile")?;
    ensure!(start.elapsed() < Duration::from_millis(140), "an fsync holds up nobody else");
    thread.join().expect("no panic")?;
    ensure!(start.elapsed() >= Duration::from_millis(150));
    ensure!((fired.count(), disk.counts().delayed) == (1, 1));
    disk.clear_faults();

    let fired = disk.inject(Fault::new(Call::Write, Effect::Fail(Errno::NOSPC)).times(1));
    ensure!(fs::write(at("other/c"), "x").is_err() && fs::write(at("other/c"), "x").is_ok());
    ensure!(fired.count() == 1);

    disk.set_read_only(true);
    let error = fs::write(at("other/d"), "x").expect_err("read-only");
    ensure!(error.raw_os_error() == Some(Errno::ROFS.raw_os_error()), "{error}");
    disk.set_read_only(false);
    fs::write(at("other/d"), "x")?;
    ensure!(disk.counts().read_only == 1);
    Ok(())
}

#[test]
fn the_space_that_is_told_is_the_space_that_is_given() -> anyhow::Result<()> {
    let root = tempfile::tempdir()?;
    let Some(disk) = FaultFs::mount(root.path(), NamePromise::Directory)? else { return Ok(()) };
    disk.set_free(Some(1 << 20));
    let free = || statvfs(root.path()).map(|stat| stat.f_bavail * stat.f_frsize);
    ensure!(free()? == 1 << 20);
    fs::write(root.path().join("a"), vec![1; 600_000])?;
    ensure!(free()? + allocated_bytes(&root.path().join("a")) == 1 << 20);
    let error = fs::write(root.path().join("b"), vec![1; 600_000]).expect_err("no space");
    ensure!(error.raw_os_error() == Some(Errno::NOSPC.raw_os_error()), "{error}");
    ensure!(disk.counts().no_space > 0);
    fs::remove_file(root.path().join("a"))?;
    fs::write(root.path().join("b"), vec![1; 600_000])?;
    disk.set_free(None);
    ensure!(free()? > 1 << 30);
    Ok(())
}
