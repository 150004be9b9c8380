// Command worker handles messages.
package main

import "plinth/internal/app"

func main() { app.Main(app.Worker) }
