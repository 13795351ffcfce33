package sampleos

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"baystream/image"
)

// uki is kernel, initramfs and command line as one EFI program.
func (b *builder) uki(kernel *image.Kernel, initrd []byte, stubDeb string) ([]byte, error) {
	deb, err := image.OpenDeb(stubDeb)
	if err != nil {
		return nil, err
	}
	stub, err := deb.Files(image.StubPath)
	if err != nil {
		return nil, err
	}
	return image.UKI(image.UKIParts{
		Stub:      stub[0].Data,
		OSRelease: []byte("ID=baystream-sample\nNAME=\"Baystream sample OS\"\nPRETTY_NAME=\"Baystream sample OS\"\n"),
		Cmdline:   cmdline,
		Uname:     kernel.Version,
		Linux:     kernel.BzImage,
		Initrd:    initrd,
	})
}

// disk puts the program, an empty root and the workload's area on one disk.
func (b *builder) disk(ctx context.Context, file string, uki []byte) error {
	root := filepath.Join(b.work, "root.ext4")
	if err := makeExt4(ctx, root, rootSize); err != nil {
		return err
	}
	area := filepath.Join(b.work, "area")
	if err := os.WriteFile(area, nil, 0o644); err != nil {
		return err
	}
	esp := []image.File{
		{Path: image.FallbackLoader, Mode: 0o644, Data: uki},
		image.Dir("personality"),
	}
	for _, name := range slices.Sorted(maps.Keys(b.Personality)) {
		esp = append(esp, image.Text("personality/"+name, b.Personality[name]))
	}
	return image.WriteDisk(file, image.Disk{
		Name: "sample OS",
		Partitions: []image.Partition{
			{Name: ESPName, Type: image.TypeESP, Size: espSize, Files: esp},
			{Name: RootName, Type: image.TypeLinux, Image: root},
			{Name: WorkName, Type: image.TypeLinux, Image: area, Size: workSize},
		},
	})
}
