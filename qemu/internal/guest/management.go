package main

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/u-root/u-root/pkg/ipmi"
)

// sendIPMI sends one request: network function, command, data, hexadecimal.
func sendIPMI(words []string) error {
	var b []byte
	for _, w := range words {
		v, err := strconv.ParseUint(w, 16, 8)
		if err != nil {
			return err
		}
		b = append(b, byte(v))
	}
	dev, err := ipmi.Open(0)
	if err != nil {
		return err
	}
	defer dev.Close()
	data := b[2:]
	if len(data) == 0 {
		data = nil // the package looks at the first byte of what is there
	}
	answer, err := dev.SendRecv(ipmi.NetFn(b[0]), ipmi.Command(b[1]), data)
	if err != nil {
		return err
	}
	fmt.Printf("guest: says % x\n", answer)
	return nil
}

// showFRU reads a FRU inventory by the standard's commands.
func showFRU(id string) error {
	n, err := strconv.ParseUint(id, 10, 8)
	if err != nil {
		return err
	}
	dev, err := ipmi.Open(0)
	if err != nil {
		return err
	}
	defer dev.Close()
	start := time.Now()
	info, err := dev.SendRecv(0x0a, 0x10, []byte{byte(n)})
	if err != nil {
		return err
	}
	size := int(binary.LittleEndian.Uint16(info[1:]))
	var fru []byte
	for len(fru) < size {
		part, err := dev.SendRecv(0x0a, 0x11, []byte{byte(n), byte(len(fru)), byte(len(fru) >> 8), byte(min(size-len(fru), 32))})
		if err != nil {
			return err
		}
		fru = append(fru, part[2:]...)
	}
	fmt.Printf("guest: says %s\n", fru)
	fmt.Printf("guest: read %d bytes in %v\n", size, time.Since(start))
	return nil
}

// get reads a page from the server that has the certificate with that sum.
func get(url, user, password, sum string) error {
	pinned := func(certs [][]byte, _ [][]*x509.Certificate) error {
		if got := sha256.Sum256(certs[0]); hex.EncodeToString(got[:]) != sum {
			return errors.New("another certificate")
		}
		return nil
	}
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true,
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true, VerifyPeerCertificate: pinned}}}
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	req.SetBasicAuth(user, password)
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	fmt.Printf("guest: says %s %.2000q\n", resp.Status, body)
	return nil
}
