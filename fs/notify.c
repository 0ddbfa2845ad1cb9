/* SPDX-License-Identifier: MIT */
#include "notify.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "fs.h"

struct notification {
	fuse_ino_t dir;
	struct fuse_pollhandle *poll; /* or NULL: forget the name */
	struct notification *prev, *next;
	size_t name_bytes;
	char name[];
};

struct notifier {
	pthread_t thread;
	pthread_mutex_t lock; /* a leaf lock; guards what follows */
	pthread_cond_t changed;
	struct notification *polls, *names;
	unsigned holders; /* parked requests that hold a directory */
	bool stopping;
};

static struct notification *take(struct notifier *notifier)
{
	struct notification *taken = NULL;
	pthread_mutex_lock(&notifier->lock);
	while (!notifier->stopping && !notifier->polls && (!notifier->names || notifier->holders > 0))
		pthread_cond_wait(&notifier->changed, &notifier->lock);
	if (!notifier->stopping) {
		struct notification **list = notifier->polls ? &notifier->polls : &notifier->names;
		taken = *list;
		DL_DELETE(*list, taken);
	}
	pthread_mutex_unlock(&notifier->lock);
	return taken;
}

static void drop(struct notification *notification)
{
	if (notification->poll)
		fuse_pollhandle_destroy(notification->poll);
	free(notification);
}

static void send(struct fs *fs, struct notification *notification)
{
	if (notification->poll)
		fuse_lowlevel_notify_poll(notification->poll);
	else /* ENOENT says that the kernel has forgotten it already */
		fuse_lowlevel_notify_inval_entry(fs->session, notification->dir, notification->name,
		                                 notification->name_bytes);
	drop(notification);
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
	pthread_mutex_init(&notifier->lock, NULL);
	pthread_cond_init(&notifier->changed, NULL);
	fs->notifier = notifier;
	int error = pthread_create(&notifier->thread, NULL, notify_all, fs);
	if (error) {
		fs->notifier = NULL;
		free(notifier);
	}
	return -error;
}

static void drop_all(struct notification **list)
{
	struct notification *each, *next;
	DL_FOREACH_SAFE(*list, each, next)
	{
		DL_DELETE(*list, each);
		drop(each);
	}
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
	drop_all(&notifier->polls);
	drop_all(&notifier->names);
}

static void count_holder(struct notifier *notifier, int change)
{
	if (!notifier)
		return;
	pthread_mutex_lock(&notifier->lock);
	notifier->holders += (unsigned)change;
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

static void submit(struct fs *fs, fuse_ino_t dir, const char *name, struct fuse_pollhandle *poll)
{
	struct notifier *notifier = fs->notifier;
	size_t bytes = strlen(name);
	struct notification *notification = malloc(sizeof(*notification) + bytes + 1);
	if (!notification) {
		if (poll)
			fuse_pollhandle_destroy(poll);
		return;
	}
	*notification = (struct notification){.dir = dir, .poll = poll, .name_bytes = bytes};
	memcpy(notification->name, name, bytes + 1);

	pthread_mutex_lock(&notifier->lock);
	bool stopping = notifier->stopping;
	if (!stopping && poll)
		DL_APPEND(notifier->polls, notification);
	else if (!stopping)
		DL_APPEND(notifier->names, notification);
	pthread_cond_signal(&notifier->changed);
	pthread_mutex_unlock(&notifier->lock);
	if (stopping)
		drop(notification);
}

void notify_forget_name(struct fs *fs, fuse_ino_t dir, const char *name)
{
	submit(fs, dir, name, NULL);
}

void notify_poll(struct fs *fs, struct fuse_pollhandle *handle)
{
	submit(fs, 0, "", handle);
}
