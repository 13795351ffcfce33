// Package artifact keeps what deployments are made from: a content-addressed
// store of files, the bundles that carry artifacts from one appliance to
// another, and the disk images inside them.
//
// A Store holds each object once, under its SHA-256; an object is either whole
// or absent, whatever happens in between. ReadBundle turns a zip into a Bundle
// after every entry has met its checksum, and WriteBundle is its inverse.
// OpenImage finds out what a golden image's file is (zip, gzip, zstd, qcow2 or
// raw) and Image.Blocks streams its contents, non-zero blocks only.
//
// Nothing here holds an image in memory. What a person can mend comes back as
// an *Error that names bundle, entry, reason and remedy, and wraps one of the
// Err values below. All functions may be called from several goroutines; an
// Image may be streamed several times, also at once.
//
// The bundle format is that of the discontinued Image Streamer (its published
// bundles are read unchanged); qcow2 follows docs/interop/qcow2.txt of QEMU.
package artifact
