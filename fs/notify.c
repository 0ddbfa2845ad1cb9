/* SPDX-License-Identifier: MIT */
#include "notify.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <utlist.h>

#include "fs.h"

/* For so long after a parked request held a directory no name is sent: the next may be in the kernel by now. */
#define QUIET_MS 100
/* But with more names than these, only the parked requests themselves are waited for. */
#define NAMES_PATIENT 256
/* More than these, and the oldest goes: the kernel keeps it until it is short of memory. */
#define NAMES_MAX 65536

struct notification {
	fuse_ino_t dir;
	struct notification *prev, *next;
	size_t name_bytes;
	char name[];
};

struct notifier {
	pthread_t thread;
	pthread_mutex_t lock; /* a leaf lock; guards what follows */
	pthread_cond_t changed;
	struct notification *names; /* oldest first */
	unsigned count;
	unsigned holders; /* parked requests that hold a directory */
	int64_t quiet_ms; /* monotonic: names wait until then */
	bool stopping;
};

/* (locked) */
static struct notification *take_oldest(struct notifier *notifier)
{
	struct notification *taken = notifier->names;
	DL_DELETE(notifier->names, taken);
	notifier->count--;
	return taken;
}

/* When the oldest name may be sent. (locked) */
static int64_t due_ms(const struct notifier *notifier)
{
	if (!notifier->names || notifier->holders > 0)
		return MQFS_NEVER;
	return notifier->count > NAMES_PATIENT ? 0 : notifier->quiet_ms;
}

/* (locked) */
static void wait_until(struct notifier *notifier, int64_t until_ms)
{
	struct timespec until = {.tv_sec = until_ms / 1000, .tv_nsec = until_ms % 1000 * 1000000};
	if (until_ms == MQFS_NEVER)
		pthread_cond_wait(&notifier->changed, &notifier->lock);
	else
		pthread_cond_timedwait(&notifier->changed, &notifier->lock, &until);
}

static struct notification *take(struct notifier *notifier)
{
	struct notification *taken = NULL;
	int64_t due;
	pthread_mutex_lock(&notifier->lock);
	while (!notifier->stopping && (due = due_ms(notifier)) > mqfs_clock_monotonic_ms())
		wait_until(notifier, due);
	if (!notifier->stopping)
		taken = take_oldest(notifier);
	pthread_mutex_unlock(&notifier->lock);
	return taken;
}

static void send(struct fs *fs, struct notification *notification)
{
	/* ENOENT says that the kernel has forgotten it already */
	fuse_lowlevel_notify_inval_entry(fs->session, notification->dir, notification->name, notification->name_bytes);
	free(notification);
}

static void *notify_all(void *arg)
{
	struct fs *fs = arg;
	struct notification *notification;
	while ((notification = take(fs->notifier)))
		send(fs, notification);
	return NULL;
}

int notify_start(struct fs *fs)
{
	struct notifier *notifier = calloc(1, sizeof(*notifier));
	if (!notifier)
		return -ENOMEM;
	pthread_condattr_t attributes;
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&notifier->changed, &attributes);
	pthread_condattr_destroy(&attributes);
	pthread_mutex_init(&notifier->lock, NULL);
	fs->notifier = notifier;
	int error = pthread_create(&notifier->thread, NULL, notify_all, fs);
	if (error) {
		fs->notifier = NULL;
		free(notifier);
	}
	return -error;
}

void notify_stop(struct fs *fs)
{
	struct notifier *notifier = fs->notifier;
	if (!notifier)
		return;
	pthread_mutex_lock(&notifier->lock);
	bool stopped = notifier->stopping;
	notifier->stopping = true;
	pthread_cond_signal(&notifier->changed);
	pthread_mutex_unlock(&notifier->lock);
	if (stopped)
		return;
	pthread_join(notifier->thread, NULL);
	while (notifier->names)
		free(take_oldest(notifier));
}

static void count_holder(struct notifier *notifier, int change)
{
	if (!notifier)
		return;
	pthread_mutex_lock(&notifier->lock);
	notifier->holders += (unsigned)change;
	notifier->quiet_ms = mqfs_clock_monotonic_ms() + QUIET_MS;
	if (notifier->holders == 0)
		pthread_cond_signal(&notifier->changed);
	pthread_mutex_unlock(&notifier->lock);
}

void notify_hold(struct fs *fs)
{
	count_holder(fs->notifier, 1);
}

void notify_release(struct fs *fs)
{
	count_holder(fs->notifier, -1);
}

void notify_forget_name(struct fs *fs, fuse_ino_t dir, const char *name)
{
	struct notifier *notifier = fs->notifier;
	size_t bytes = strlen(name);
	struct notification *notification = malloc(sizeof(*notification) + bytes + 1), *dropped = NULL;
	if (!notification)
		return;
	*notification = (struct notification){.dir = dir, .name_bytes = bytes};
	memcpy(notification->name, name, bytes + 1);

	pthread_mutex_lock(&notifier->lock);
	if (notifier->stopping) {
		dropped = notification;
	} else {
		dropped = notifier->count == NAMES_MAX ? take_oldest(notifier) : NULL;
		DL_APPEND(notifier->names, notification);
		notifier->count++;
	}
	pthread_cond_signal(&notifier->changed);
	pthread_mutex_unlock(&notifier->lock);
	free(dropped);
}

void notify_poll(struct fuse_pollhandle *handle)
{
	fuse_lowlevel_notify_poll(handle);
	fuse_pollhandle_destroy(handle);
}
