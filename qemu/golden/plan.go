package golden

// PlanScript is the deploy script that gives a clone of the image its
// personality. Attributes: HostName (hostname), Address (ADDRESS/LENGTH), and
// SSHKey (an authorized_keys line for the user admin).
const PlanScript = `# Personality of the Debian golden image: the files are read by the server at
# each start, from its EFI partition.
mount /dev/sda1 /
mkdir-p /baystream/personality
upload -<<END /baystream/personality/hostname
@HostName@
END
upload -<<END /baystream/personality/address
@Address@
END
upload -<<END /baystream/personality/authorized_keys
@SSHKey@
END
echo "ImageStreamerLog: personality of @HostName@ written"
umount /
`

// PlanScriptName and Attributes name the script and what it asks for.
const PlanScriptName = "Debian 12 personality"

// Attributes lists the attributes of PlanScript with their domain types.
var Attributes = []struct{ Name, Type, Description string }{
	{"HostName", "hostname", "host name of the server"},
	{"Address", "string", "address of the server beside its boot address, ADDRESS/LENGTH"},
	{"SSHKey", "string", "public key that may log in as admin"},
}
