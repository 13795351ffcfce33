package demo

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"baystream/qemu"
	"baystream/qemu/golden"
)

// The personality that the demo asks for.
const (
	hostName = "bay-demo-1"
	address  = "192.0.2.200/24"
)

// Memory of the server, in MiB: Debian takes its time in less.
const serverMemory = 512

var loginPrompt = regexp.MustCompile(hostName + ` login: `)

// debian is the story of a server that runs Debian.
func (s *story) debian(ctx context.Context) error {
	image := filepath.Join(s.Cache, "debian-12.raw.zst")
	err := s.step("Build the golden image: Debian 12 from Debian's packages", func(tell func(string, int64, int64)) error {
		return golden.Debian(ctx, s.Cache, image, func(step string, done float64) { tell(step, int64(done*100), 100) })
	})
	if err != nil {
		return err
	}
	if err := s.up(ctx, qemu.ModuleConfig{MemoryMiB: serverMemory}); err != nil {
		return err
	}
	goldenURI, err := s.uploadGolden(ctx, image)
	if err != nil {
		return err
	}
	key, signer, err := newKey()
	if err != nil {
		return err
	}
	var plan string
	err = s.simple("Create plan script, build plan and deployment plan", func() (err error) {
		plan, err = s.createPlans(ctx, goldenURI)
		return err
	})
	if err != nil {
		return err
	}
	var hw server
	err = s.step("Assign a server profile: clone, personalise, export", func(tell func(string, int64, int64)) (err error) {
		if hw, err = s.register(ctx); err != nil {
			return err
		}
		return s.assign(ctx, hw, plan, []attribute{{Name: "HostName", Value: hostName}, {Name: "Address", Value: address}, {Name: "SSHKey", Value: key}}, tell)
	})
	if err != nil {
		return err
	}
	vm := s.frame.Compute(1)
	var hostKey string
	err = s.simple("Power on the server; firmware, iPXE, iSCSI, kernel, log-in prompt", func() error {
		if err := vm.PowerOn(ctx); err != nil {
			return err
		}
		hostKey, err = s.waitLogin(ctx, 0, signer.PublicKey())
		return err
	})
	if err != nil {
		return err
	}
	s.printf("         the server says: host name %s, address %s, key %s", hostName, address, ssh.FingerprintSHA256(signer.PublicKey()))
	if err := s.rest.Get(ctx, hw.URI, &hw); err != nil {
		return err
	}
	text := "written by the demo: " + rand.Text()
	err = s.simple("Log in by ssh over the deployment network and write a file", func() error {
		out, err := s.ssh(ctx, hw.Address, signer, hostKey, "echo '"+text+"' > kept.txt && sync && hostname")
		if err == nil && strings.TrimSpace(out) != hostName {
			err = fmt.Errorf("hostname says %q, want %q", strings.TrimSpace(out), hostName)
		}
		return err
	})
	if err != nil {
		return err
	}
	err = s.simple("Reboot the server and read the file back", func() error {
		mark := vm.Console().Mark()
		// The connection ends with the server, so ssh cannot tell how it went;
		// the console does.
		if _, err := s.ssh(ctx, hw.Address, signer, hostKey, "sudo systemctl reboot"); err != nil {
			s.Log.Debug("reboot over ssh", "err", err)
		}
		if _, err := s.waitLogin(ctx, mark, signer.PublicKey()); err != nil {
			return err
		}
		out, err := s.ssh(ctx, hw.Address, signer, hostKey, "cat kept.txt")
		if err == nil && strings.TrimSpace(out) != text {
			err = fmt.Errorf("the file holds %q, want %q", strings.TrimSpace(out), text)
		}
		return err
	})
	if err != nil {
		return err
	}
	s.printf("         the file is still there: %q", text)
	return nil
}

func (s *story) uploadGolden(ctx context.Context, image string) (uri string, err error) {
	var task qemu.Task
	err = s.step("Upload the golden image", func(tell func(string, int64, int64)) error {
		path := "/rest/golden-images?" + url.Values{"name": {"Debian 12"}, "description": {"made by the demo"}}.Encode()
		return s.rest.Upload(ctx, path, nil, image, func(done, total int64) { tell("upload", done, total) }, &task)
	})
	if err != nil {
		return "", err
	}
	err = s.step("Check the image and expand it into the pool", func(tell func(string, int64, int64)) error {
		task, err = s.rest.WaitTask(ctx, task, func(t qemu.Task) { tell(t.Name, int64(t.Percent), 100) })
		return err
	})
	return task.Resource.URI, err
}

// createPlans makes what turns the golden image into servers and returns the
// uri of the deployment plan.
func (s *story) createPlans(ctx context.Context, goldenURI string) (string, error) {
	var out struct {
		URI string `json:"uri"`
	}
	err := s.rest.Do(ctx, "POST", "/rest/plan-scripts", map[string]any{
		"type": "PlanScript", "name": golden.PlanScriptName, "planType": "deploy", "content": golden.PlanScript, "description": "made by the demo"}, &out)
	if err != nil {
		return "", err
	}
	script := out.URI
	var build, plan []attribute
	for _, a := range golden.Attributes {
		at := attribute{Name: a.Name, Type: a.Type, Description: a.Description, Constraints: "{}"}
		build = append(build, at)
		at.Editable, at.Visible = true, true
		plan = append(plan, at)
	}
	err = s.rest.Do(ctx, "POST", "/rest/build-plans", map[string]any{
		"type": "OeBuildPlanV5", "name": "Debian 12", "oeBuildPlanType": "deploy", "description": "made by the demo",
		"buildStep":        []map[string]any{{"serialNumber": "1", "parameters": nil, "planScriptName": golden.PlanScriptName, "planScriptUri": script}},
		"customAttributes": build}, &out)
	if err != nil {
		return "", err
	}
	err = s.rest.Do(ctx, "POST", "/rest/deployment-plans", map[string]any{
		"type": "OEDeploymentPlanV5", "name": "Debian 12", "description": "made by the demo",
		"goldenImageURI": goldenURI, "oeBuildPlanURI": out.URI, "customAttributes": plan}, &out)
	return out.URI, err
}

var (
	personality = regexp.MustCompile(`BAYSTREAM PERSONALITY hostname=(\S+) address=(\S+) key=(\S+) hostkey=(\S+)\s`)
	bootPatient = 4 * time.Minute
)

// waitLogin waits for the log-in prompt and checks the personality that the
// server printed before it. It returns the fingerprint of its host key.
func (s *story) waitLogin(ctx context.Context, mark int64, key ssh.PublicKey) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, bootPatient)
	defer cancel()
	con := s.frame.Compute(1).Console()
	m, err := con.WaitFrom(ctx, mark, personality)
	if err != nil {
		return "", err
	}
	if want := []string{hostName, address, ssh.FingerprintSHA256(key)}; m[1] != want[0] || m[2] != want[1] || m[3] != want[2] {
		return "", fmt.Errorf("the server has host name %s, address %s, key %s; want %s", m[1], m[2], m[3], strings.Join(want, ", "))
	}
	_, err = con.WaitFrom(ctx, mark, loginPrompt)
	return m[4], err
}

// newKey makes the key pair with which the demo logs in.
func newKey() (authorized string, signer ssh.Signer, err error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return "", nil, err
	}
	signer, err = ssh.NewSignerFromKey(private)
	if err != nil {
		return "", nil, err
	}
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey()))) + " demo", signer, nil
}

// ssh runs a command on the server as admin and returns what it printed.
func (s *story) ssh(ctx context.Context, addr string, signer ssh.Signer, hostKey, command string) (string, error) {
	host, err := s.frame.DeploymentHost()
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, qemu.Deadline(30*time.Second))
	defer cancel()
	conn, err := dial(ctx, host, addr+":22")
	if err != nil {
		return "", err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	cc, chans, reqs, err := ssh.NewClientConn(conn, addr, &ssh.ClientConfig{
		User: "admin", Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)},
		HostKeyAlgorithms: []string{ssh.KeyAlgoED25519},
		HostKeyCallback:   checkHostKey(hostKey),
	})
	if err != nil {
		return "", fmt.Errorf("ssh %s: %w", addr, err)
	}
	client := ssh.NewClient(cc, chans, reqs)
	defer client.Close()
	session, err := client.NewSession()
	if err != nil {
		return "", fmt.Errorf("ssh %s: %w", addr, err)
	}
	defer session.Close()
	out, err := session.CombinedOutput(command)
	if err != nil {
		return string(out), fmt.Errorf("ssh %s: %s: %w: %s", addr, command, err, out)
	}
	return string(out), nil
}

// dial waits until the server's sshd answers.
func dial(ctx context.Context, host *qemu.Host, addr string) (net.Conn, error) {
	for {
		conn, err := host.DialContext(ctx, "tcp", addr)
		if err == nil {
			return conn, nil
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), err)
		case <-time.After(time.Second):
		}
	}
}

// checkHostKey accepts only the host key whose fingerprint the server printed
// on its console.
func checkHostKey(want string) ssh.HostKeyCallback {
	return func(_ string, _ net.Addr, key ssh.PublicKey) error {
		if got := ssh.FingerprintSHA256(key); got != want {
			return fmt.Errorf("host key %s, the console says %s", got, want)
		}
		return nil
	}
}
