/* SPDX-License-Identifier: MIT */
#include <mqfs/failpoint.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static const char *const names[] = {
#define FAILPOINT_NAME(name) #name,
#include <mqfs/failpoint.def>
#undef FAILPOINT_NAME
};

static struct failpoints private_page;
static struct failpoints *page = &private_page;
static pthread_once_t once = PTHREAD_ONCE_INIT;

/* A test that asks for what isn't there must not go on as if nothing had happened. */
static void refuse(const char *what, const char *why)
{
	fprintf(stderr, "failpoint: %s: %s\n", what, why);
	abort();
}

static void share_page(const char *path)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);

	if (fd < 0)
		refuse(path, strerror(errno));
	page = mmap(NULL, sizeof(*page), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (page == MAP_FAILED)
		refuse(path, strerror(errno));
	close(fd);
}

static void arm(const char *text)
{
	size_t length = strcspn(text, ":");

	for (size_t i = 0; i < FAILPOINTS; i++) {
		if (strlen(names[i]) != length || strncmp(names[i], text, length) != 0)
			continue;
		page->points[i].end_at =
		    page->points[i].passed + (text[length] ? strtoll(text + length + 1, NULL, 10) : 1);
		return;
	}
	refuse(text, "no such point");
}

static void prepare(void)
{
	const char *path = getenv("MQFS_FAILPOINTS"), *point = getenv("MQFS_FAILPOINT");

	if (path)
		share_page(path);
	if (point)
		arm(point);
}

void failpoint_pass(enum failpoint point)
{
	int64_t passed, end_at;

	pthread_once(&once, prepare);
	passed = __atomic_add_fetch(&page->points[point].passed, 1, __ATOMIC_SEQ_CST);
	end_at = __atomic_load_n(&page->points[point].end_at, __ATOMIC_SEQ_CST);
	if (end_at == 0 || passed < end_at)
		return;
	fprintf(stderr, "failpoint: %s\n", names[point]);
	kill(getpid(), SIGKILL);
	for (;;)
		pause();
}

int64_t failpoint_clock_step_us(void)
{
	pthread_once(&once, prepare);
	return __atomic_load_n(&page->clock_step_us, __ATOMIC_SEQ_CST);
}
