/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A steady load of real kernel events: EXECS_PER_S children that run /bin/true, and CONNECTS_PER_S
 * TCP connections over loopback, each connected, accepted, written to and closed.
 *
 *   load EXECS_PER_S CONNECTS_PER_S SECONDS
 *
 * Prints what it did as JSON. An exec is three events (fork, exec, exit), a connection four.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double now_s(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec + now.tv_nsec / 1e9;
}

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static int listen_somewhere(struct sockaddr_in *address)
{
	socklen_t size = sizeof(*address);
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	*address = (struct sockaddr_in){ .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	if (fd < 0 || bind(fd, (void *)address, size) || listen(fd, 16) ||
	    getsockname(fd, (void *)address, &size))
		die("listen");
	return fd;
}

static void run_program(void)
{
	pid_t pid = vfork();

	if (pid == 0) {
		execl("/bin/true", "true", "--some-arg", "value/of/the/argument", "-x", (char *)0);
		_exit(127);
	}
	if (pid < 0 || waitpid(pid, 0, 0) != pid)
		die("vfork");
}

static void connect_once(int listener, const struct sockaddr_in *address)
{
	/* Reset instead of TIME_WAIT: a long run would use up the local ports. */
	struct linger reset = { .l_onoff = 1 };
	int client = socket(AF_INET, SOCK_STREAM, 0);
	int server;

	if (client < 0 || connect(client, (const void *)address, sizeof(*address)))
		die("connect");
	server = accept(listener, 0, 0);
	if (server < 0 || write(client, "hi", 2) != 2)
		die("accept");
	setsockopt(client, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
	close(client);
	close(server);
}

int main(int count, char **arguments)
{
	struct timespec pause = { .tv_nsec = 2000000 };
	double execs_per_s, connects_per_s, seconds, start_s, elapsed_s;
	long execs = 0, connects = 0;
	struct sockaddr_in address;
	int listener;

	if (count != 4) {
		fprintf(stderr, "usage: load EXECS_PER_S CONNECTS_PER_S SECONDS\n");
		return 2;
	}
	execs_per_s = atof(arguments[1]);
	connects_per_s = atof(arguments[2]);
	seconds = atof(arguments[3]);
	listener = listen_somewhere(&address);
	start_s = now_s();
	while ((elapsed_s = now_s() - start_s) < seconds) {
		for (; execs < elapsed_s * execs_per_s; execs++)
			run_program();
		for (; connects < elapsed_s * connects_per_s; connects++)
			connect_once(listener, &address);
		nanosleep(&pause, 0);
	}
	printf("{\"execs\": %ld, \"connects\": %ld, \"seconds\": %.3f}\n", execs, connects, elapsed_s);
	return 0;
}
