/* SPDX-License-Identifier: MIT */
/*
 * The load: clients that publish and consume by files, each a process of its own, as shells and their
 * tools are. Prints how many messages went through and the seconds it took.
 *
 *     files publish DIR CLIENTS COUNT        create, write 1 KiB, close in DIR: COUNT messages
 *     files publish-for DIR CLIENTS SECONDS  the same for SECONDS
 *     files consume DIR CLIENTS COUNT        open, read to the end, close, unlink of what readdir of DIR names
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <signal.h>

enum { BODY_BYTES = 1024, NAMES_MAX = 1024, CLIENTS_MAX = 256, STALLED_S = 30 };

/* What the processes share. */
static struct shared {
	pthread_mutex_t lock; /* guards names, next, count: what one readdir found and nobody took yet */
	char names[NAMES_MAX][NAME_MAX + 1];
	int next, count;
	atomic_long done; /* published or consumed */
	atomic_bool go;
} * shared;

static const char *directory;
static int directory_fd;
static long wanted;
static double publish_s;

__attribute__((noreturn, format(printf, 1, 2))) static void fail(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vfprintf(stderr, format, arguments);
	va_end(arguments);
	fprintf(stderr, ": %s\n", strerror(errno));
	_exit(1);
}

static double now_s(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void publish_one(const char *name, const char *body)
{
	int fd = openat(directory_fd, name, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	if (fd < 0)
		fail("open %s", name);
	if (write(fd, body, BODY_BYTES) != BODY_BYTES)
		fail("write %s", name);
	if (close(fd) != 0)
		fail("close %s", name);
}

static void publish(int client)
{
	char body[BODY_BYTES], name[64];
	double end = now_s() + publish_s;

	memset(body, 'm', sizeof(body));
	for (long i = 0;; i++) {
		if (wanted > 0 ? atomic_fetch_add(&shared->done, 1) >= wanted : now_s() >= end)
			return;
		snprintf(name, sizeof(name), "task-%d-%ld", client, i);
		publish_one(name, body);
		if (wanted == 0)
			atomic_fetch_add(&shared->done, 1);
	}
}

static void list_names(void)
{
	DIR *stream = opendir(directory);
	struct dirent *entry;

	if (stream == NULL)
		fail("opendir %s", directory);
	shared->next = shared->count = 0;
	while (shared->count < NAMES_MAX && (entry = readdir(stream)) != NULL)
		if (entry->d_name[0] != '.')
			snprintf(shared->names[shared->count++], NAME_MAX + 1, "%s", entry->d_name);
	closedir(stream);
}

/* One process lists for all, so that clients don't spend their time on names that others took. */
static bool take_name(char name[NAME_MAX + 1])
{
	bool taken = false;

	pthread_mutex_lock(&shared->lock);
	if (shared->next == shared->count)
		list_names();
	if (shared->next < shared->count) {
		memcpy(name, shared->names[shared->next++], NAME_MAX + 1);
		taken = true;
	}
	pthread_mutex_unlock(&shared->lock);
	return taken;
}

/* False when somebody else has it: a list may name what was taken just then. */
static bool consume_one(const char *name)
{
	char body[2 * BODY_BYTES];
	int fd = openat(directory_fd, name, O_RDONLY);
	ssize_t bytes, total = 0;

	if (fd < 0 && (errno == EBUSY || errno == ENOENT))
		return false;
	if (fd < 0)
		fail("open %s", name);
	while ((bytes = read(fd, body, sizeof(body))) > 0)
		total += bytes;
	if (bytes < 0 || total != BODY_BYTES)
		fail("read %s: %zd bytes", name, total);
	if (close(fd) != 0)
		fail("close %s", name);
	if (unlinkat(directory_fd, name, 0) != 0)
		fail("unlink %s", name);
	return true;
}

static void consume(void)
{
	const struct timespec moment = {.tv_nsec = 200000};
	char name[NAME_MAX + 1];
	double last = now_s();

	while (atomic_load(&shared->done) < wanted) {
		if (take_name(name) && consume_one(name)) {
			atomic_fetch_add(&shared->done, 1);
			last = now_s();
		} else if (now_s() - last > STALLED_S) {
			errno = ETIMEDOUT;
			fail("consumed %ld of %ld", atomic_load(&shared->done), wanted);
		} else {
			nanosleep(&moment, NULL);
		}
	}
}

static void run_client(bool publishing, int client)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	directory_fd = open(directory, O_RDONLY | O_DIRECTORY);
	if (directory_fd < 0)
		fail("open %s", directory);
	while (!atomic_load(&shared->go))
		usleep(100);
	if (publishing)
		publish(client);
	else
		consume();
	_exit(0);
}

static void share(void)
{
	pthread_mutexattr_t attributes;

	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED)
		fail("mmap");
	pthread_mutexattr_init(&attributes);
	pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
	pthread_mutex_init(&shared->lock, &attributes);
}

static int run_clients(bool publishing, int clients)
{
	int status, failed = 0;
	long count;
	double start;

	for (int i = 0; i < clients; i++)
		if (fork() == 0)
			run_client(publishing, i);
	usleep(20000);
	start = now_s();
	atomic_store(&shared->go, true);
	while (wait(&status) > 0)
		failed |= status;
	count = wanted > 0 ? wanted : atomic_load(&shared->done);
	printf("%ld %.6f\n", count, now_s() - start);
	return failed ? 1 : 0;
}

int main(int argc, char **argv)
{
	bool publishing = argc == 5 && strncmp(argv[1], "publish", 7) == 0;
	int clients = argc == 5 ? atoi(argv[3]) : 0;

	if (clients < 1 || clients > CLIENTS_MAX) {
		fprintf(stderr, "usage: files publish|publish-for|consume DIR CLIENTS COUNT|SECONDS\n");
		return 2;
	}
	directory = argv[2];
	if (strcmp(argv[1], "publish-for") == 0)
		publish_s = atof(argv[4]);
	else
		wanted = atol(argv[4]);
	share();
	return run_clients(publishing, clients);
}
