package block

import (
	"errors"

	"golang.org/x/sys/unix"
)

// data returns the parts of a range that are no holes, as begin and end.
func (d *Drive) data(from, to int64) (extents [][2]int64, err error) {
	for from < to {
		begin, err := unix.Seek(int(d.file.Fd()), from, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break
		}
		if err != nil {
			return nil, err
		}
		end, err := unix.Seek(int(d.file.Fd()), begin, unix.SEEK_HOLE)
		if err != nil {
			return nil, err
		}
		if begin >= to {
			break
		}
		extents = append(extents, [2]int64{begin, min(end, to)})
		from = end
	}
	return extents, nil
}
