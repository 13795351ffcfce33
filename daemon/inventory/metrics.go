package inventory

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"baystream/hw"
	"baystream/hw/ipmi"
	"baystream/hw/redfish"
)

// collector makes metrics of the inventory when they are asked for. Names follow
// https://prometheus.io/docs/practices/naming/.
type collector struct{ k *Keeper }

// Metrics returns a collector of the module's sensors, disks and links and of
// the frame's bays.
func (k *Keeper) Metrics() prometheus.Collector { return collector{k} }

// desc describes a metric.
func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("baystream_"+name, help, labels, nil)
}

var (
	sensorValue    = desc("sensor_value", "Reading of a sensor of the module's controller in the unit that the label names.", "sensor", "type", "unit")
	sensorState    = desc("sensor_state", "State of a sensor: 0 ok, 1 non-critical, 2 critical, 3 non-recoverable, -1 unavailable.", "sensor", "type")
	controllerUp   = desc("controller_up", "Whether the module's management controller answers.")
	logFree        = desc("controller_log_free_bytes", "Room in the controller's event log; at 65535 it may be more.")
	managerUp      = desc("frame_manager_up", "Whether the frame manager's events are followed.")
	bayPower       = desc("bay_power", "Whether what sits in a bay has power.", "frame", "bay")
	bayHealth      = desc("bay_health", "Health of what sits in a bay, as the frame manager says: 0 OK, 1 Warning, 2 Critical.", "frame", "bay")
	plugged        = desc("hardware_changes_total", "How often hardware was plugged or unplugged since the daemon started.")
	tpmLog         = desc("tpm_log_matches", "Whether the firmware's log of measurements explains the TPM's registers.")
	diskSize       = desc("disk_size_bytes", "Capacity of a disk.", "disk", "model", "serial")
	diskRead       = desc("disk_read_bytes_total", "Bytes read from a disk.", "disk")
	diskWritten    = desc("disk_written_bytes_total", "Bytes written to a disk.", "disk")
	diskReads      = desc("disk_reads_total", "Reads that a disk completed.", "disk")
	diskWrites     = desc("disk_writes_total", "Writes that a disk completed.", "disk")
	diskBusy       = desc("disk_busy_seconds_total", "Time in which a disk had work.", "disk")
	diskErrors     = desc("disk_errors_total", "Commands to a disk that ended in an error, as its driver counts them, or else the kernel's log tells.", "disk")
	diskCelsius    = desc("disk_temperature_celsius", "Temperature of a disk, where something measures it.", "disk")
	linkUp         = desc("link_up", "Whether a link has carrier.", "link", "slot")
	linkSpeed      = desc("link_speed_bits_per_second", "Speed of a link that is up.", "link")
	linkChanges    = desc("link_carrier_changes_total", "How often a link came up or went down.", "link")
	linkReceived   = desc("link_received_bytes_total", "Bytes received on a link.", "link")
	linkSent       = desc("link_sent_bytes_total", "Bytes sent on a link.", "link")
	linkRxErrors   = desc("link_receive_errors_total", "Frames received with an error.", "link")
	linkTxErrors   = desc("link_send_errors_total", "Frames that could not be sent.", "link")
	linkRxDropped  = desc("link_receive_dropped_total", "Received frames that were dropped.", "link")
	linkTxDropped  = desc("link_send_dropped_total", "Frames that were dropped instead of sent.", "link")
	allDescs       = []*prometheus.Desc{sensorValue, sensorState, controllerUp, logFree, managerUp, bayPower, bayHealth, plugged, tpmLog, diskSize, diskRead, diskWritten, diskReads, diskWrites, diskBusy, diskErrors, diskCelsius, linkUp, linkSpeed, linkChanges, linkReceived, linkSent, linkRxErrors, linkTxErrors, linkRxDropped, linkTxDropped}
	sensorStates   = map[ipmi.State]float64{ipmi.Unavailable: -1, ipmi.OK: 0, ipmi.NonCritical: 1, ipmi.Critical: 2, ipmi.NonRecoverable: 3}
	redfishHealths = map[string]float64{"OK": 0, "Warning": 1, "Critical": 2}
)

// Describe implements prometheus.Collector.
func (collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range allDescs {
		ch <- d
	}
}

// Collect implements prometheus.Collector. Counters of disks and links are read
// now; what comes from the controllers is what was read last.
func (c collector) Collect(ch chan<- prometheus.Metric) {
	d := c.k.Document()
	gauge := func(desc *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, v, labels...)
	}
	ch <- prometheus.MustNewConstMetric(plugged, prometheus.CounterValue, float64(d.Revision))
	if d.TPM.Log != nil {
		gauge(tpmLog, truth(d.TPM.Log.Verdict == "matches"))
	}
	c.controller(d, gauge)
	c.frame(d, gauge)
	for _, disk := range d.Disks {
		c.disk(ch, disk)
	}
	for _, nic := range d.NICs {
		c.link(ch, nic)
	}
}

type gauge func(desc *prometheus.Desc, v float64, labels ...string)

func (c collector) controller(d Document, gauge gauge) {
	c.k.mu.Lock()
	up := c.k.open != nil
	c.k.mu.Unlock()
	gauge(controllerUp, truth(up))
	if d.Controller == nil {
		return
	}
	if d.Controller.Log != nil {
		gauge(logFree, float64(d.Controller.Log.FreeBytes))
	}
	seen := map[string]bool{}
	for _, s := range d.Controller.Sensors {
		name := s.Name
		if seen[name] { // names need not be unique, labels must be
			name += " #" + strconv.Itoa(s.Number)
		}
		seen[name] = true
		gauge(sensorState, sensorStates[s.State], name, s.Type)
		if s.Reading != nil {
			gauge(sensorValue, *s.Reading, name, s.Type, s.Unit)
		}
	}
}

func (c collector) frame(d Document, gauge gauge) {
	if d.FrameManager == nil {
		return
	}
	gauge(managerUp, truth(d.FrameManager.Connected))
	seen := map[[2]string]bool{}
	for _, f := range d.FrameManager.Frames {
		for _, b := range f.Bays {
			key := [2]string{f.Serial, b.Location}
			if !b.Present || seen[key] {
				continue
			}
			seen[key] = true
			gauge(bayPower, truth(b.Power == redfish.On), f.Serial, b.Location)
			if h, ok := redfishHealths[b.Health]; ok {
				gauge(bayHealth, h, f.Serial, b.Location)
			}
		}
	}
}

func (c collector) disk(ch chan<- prometheus.Metric, d hw.Disk) {
	s, err := hw.ReadDiskStat(c.k.cfg.Root, d.Name)
	if err != nil {
		return // it has just been unplugged
	}
	value := func(desc *prometheus.Desc, t prometheus.ValueType, v float64) {
		ch <- prometheus.MustNewConstMetric(desc, t, v, d.Name)
	}
	ch <- prometheus.MustNewConstMetric(diskSize, prometheus.GaugeValue, float64(d.SizeBytes), d.Name, d.Model, d.Serial)
	value(diskRead, prometheus.CounterValue, float64(s.ReadBytes))
	value(diskWritten, prometheus.CounterValue, float64(s.WrittenBytes))
	value(diskReads, prometheus.CounterValue, float64(s.Reads))
	value(diskWrites, prometheus.CounterValue, float64(s.Writes))
	value(diskBusy, prometheus.CounterValue, s.BusySeconds)
	if s.Errors < 0 {
		s.Errors = c.k.diskErrors(d.Name)
	}
	value(diskErrors, prometheus.CounterValue, float64(s.Errors))
	if s.Celsius != nil {
		value(diskCelsius, prometheus.GaugeValue, *s.Celsius)
	}
}

func (c collector) link(ch chan<- prometheus.Metric, n hw.NIC) {
	s, err := hw.ReadLinkStat(c.k.cfg.Root, n.Name)
	if err != nil {
		return
	}
	ch <- prometheus.MustNewConstMetric(linkUp, prometheus.GaugeValue, truth(s.Carrier), n.Name, strconv.Itoa(n.Slot))
	if s.SpeedMbps > 0 {
		ch <- prometheus.MustNewConstMetric(linkSpeed, prometheus.GaugeValue, float64(s.SpeedMbps)*1e6, n.Name)
	}
	for _, v := range []struct {
		desc *prometheus.Desc
		n    int64
	}{
		{linkChanges, s.CarrierChanges}, {linkReceived, s.ReceivedBytes}, {linkSent, s.SentBytes}, {linkRxErrors, s.ReceiveErrors},
		{linkTxErrors, s.SendErrors}, {linkRxDropped, s.ReceiveDropped}, {linkTxDropped, s.SendDropped},
	} {
		ch <- prometheus.MustNewConstMetric(v.desc, prometheus.CounterValue, float64(v.n), n.Name)
	}
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
