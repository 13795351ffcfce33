package cluster

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"

	bolt "go.etcd.io/bbolt"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
)

// DamagedError says that the files of a member are not what it wrote. A member
// that has others joins anew: SetAside, then Node.Add at one of them, then
// Start with Config.Join. It must not start with empty files under its old
// identity: it has given votes that it would no longer know of.
type DamagedError struct {
	Dir string
	Err error
}

func (e *DamagedError) Error() string {
	return fmt.Sprintf("cluster: state in %s is damaged: %v", e.Dir, e.Err)
}

func (e *DamagedError) Unwrap() error { return e.Err }

// SetAside moves damaged files away, over those of an earlier time, so that
// they can be looked at.
func (e *DamagedError) SetAside() error {
	aside := e.Dir + ".damaged"
	if err := os.RemoveAll(aside); err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	if err := os.Rename(e.Dir, aside); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cluster: %w", err)
	}
	return nil
}

// HasState says whether a member has state in cfg.Dir.
func HasState(cfg Config) bool { return wal.Exist(filepath.Join(cfg.Dir, "member", "member", "wal")) }

// verify reads the log and the database of a member once, as etcd itself would
// die over a page it cannot read. No state at all is right.
func verify(dir string) (err error) {
	walDir, db := filepath.Join(dir, "member", "wal"), filepath.Join(dir, "member", "snap", "db")
	if !wal.Exist(walDir) {
		if _, err := os.Stat(db); err == nil {
			return errors.New("a database without a log")
		}
		return nil
	}
	// A truncated database is a fault in memory that is mapped to it.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%v", p)
		}
	}()
	logged, err := verifyLog(walDir)
	if err != nil {
		return err
	}
	applied, err := verifyDatabase(db)
	if err == nil && applied > logged {
		err = fmt.Errorf("log: ends at entry %d, but the database holds entry %d", logged, applied)
	}
	return err
}

// verifyLog reads the log and returns the index of its last entry. A log that
// breaks off is one that was being written when the power went, or one that
// has lost entries that were safe; only the database can tell.
func verifyLog(dir string) (last uint64, err error) {
	snaps, err := wal.ValidSnapshotEntries(nil, dir)
	if err != nil {
		return 0, fmt.Errorf("log: %w", err)
	}
	from := walpb.Snapshot{}
	if len(snaps) > 0 {
		from = snaps[len(snaps)-1]
	}
	w, err := wal.OpenForRead(nil, dir, from)
	if err != nil {
		return 0, fmt.Errorf("log: %w", err)
	}
	_, state, entries, err := w.ReadAll()
	_ = w.Close() // one that is open for reading always says "invalid argument"
	if err != nil {
		return 0, fmt.Errorf("log: %w", err)
	}
	last = from.Index
	if len(entries) > 0 {
		last = entries[len(entries)-1].Index
	}
	if state.Commit > last {
		return 0, fmt.Errorf("log: ends at entry %d, but entry %d was committed", last, state.Commit)
	}
	return last, nil
}

// verifyDatabase reads the database and returns the index of the last entry of
// the log that is in it.
func verifyDatabase(file string) (applied uint64, err error) {
	if _, err := os.Stat(file); err != nil {
		return 0, fmt.Errorf("database: %w", err)
	}
	db, err := bolt.Open(file, 0o600, &bolt.Options{ReadOnly: true, NoFreelistSync: true})
	if err != nil {
		return 0, fmt.Errorf("database: %w", err)
	}
	err = db.View(func(tx *bolt.Tx) error {
		if meta := tx.Bucket([]byte("meta")); meta != nil {
			if v := meta.Get([]byte("consistent_index")); len(v) == 8 {
				applied = binary.BigEndian.Uint64(v)
			}
		}
		return tx.ForEach(func(name []byte, b *bolt.Bucket) error { return verifyBucket(name, b) })
	})
	if err := errors.Join(err, db.Close()); err != nil {
		return 0, fmt.Errorf("database: %w", err)
	}
	return applied, nil
}

// verifyBucket reads all of a bucket. (bbolt's own check panics in a goroutine
// of its own.)
func verifyBucket(name []byte, b *bolt.Bucket) error {
	var last []byte
	return b.ForEach(func(k, v []byte) error {
		if bytes.Compare(last, k) >= 0 && last != nil {
			return fmt.Errorf("bucket %s: keys are out of order", name)
		}
		last = bytes.Clone(k)
		if string(name) != "key" { // the values of the domain state
			return nil
		}
		var kv mvccpb.KeyValue
		if err := kv.Unmarshal(v); err != nil {
			return fmt.Errorf("bucket %s: revision %x: %w", name, k, err)
		}
		return nil
	})
}
