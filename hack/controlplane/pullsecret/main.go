// Command pullsecret reads .dockerconfigjson values with the kubelet's own code, and says what the kubelet makes of them.
//
// Each line of stdin is one value in base64; the line of stdout that answers it is `null` if the kubelet refuses the
// value, and otherwise an object with the user and password by key, in base64 each, since they needn't be UTF-8.
package main

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"log"
	"os"

	"k8s.io/kubernetes/pkg/credentialprovider"
)

func main() {
	values := bufio.NewReader(os.Stdin)
	answers := json.NewEncoder(os.Stdout)
	for {
		line, err := values.ReadString('\n')
		if err != nil {
			return
		}
		value, err := base64.StdEncoding.DecodeString(line)
		if err != nil {
			log.Fatal(err)
		}
		if err := answers.Encode(read(value)); err != nil {
			log.Fatal(err)
		}
	}
}

// read does what secretsToTrackedDockerConfigs of pkg/credentialprovider/secrets does with the value of a Secret.
func read(value []byte) map[string][2][]byte {
	read := map[string][2][]byte{}
	if len(value) == 0 {
		return read
	}
	var config credentialprovider.DockerConfigJSON
	if err := json.Unmarshal(value, &config); err != nil {
		return nil
	}
	for key, entry := range config.Auths {
		read[key] = [2][]byte{[]byte(entry.Username), []byte(entry.Password)}
	}
	return read
}
