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
	struct notification *next;
	size_t name_bytes;
	char name[];
};

struct notifier {
	pthread_t thread;
	pthread_mutex_t lock; /* a leaf lock; guards what follows */
	pthread_cond_t changed;
	struct notification *first, *last;
	bool stopping;
};

static struct notification *take_all(struct notifier *notifier)
{
	pthread_mutex_lock(&notifier->lock);
	while (!notifier->first && !notifier->stopping)
		pthread_cond_wait(&notifier->changed, &notifier->lock);
	struct notification *all = notifier->stopping ? NULL : notifier->first;
	if (all)
		notifier->first = notifier->last = NULL;
	pthread_mutex_unlock(&notifier->lock);
	return all;
}

static void send(struct fs *fs, struct notification *notification)
{
	if (notification->poll) {
		fuse_lowlevel_notify_poll(notification->poll);
		fuse_pollhandle_destroy(notification->poll);
		return;
	}
	/* ENOENT says that the kernel has forgotten it already. */
	fuse_lowlevel_notify_inval_entry(fs->session, notification->dir, notification->name, notification->name_bytes);
}

static void *notify_all(void *arg)
{
	struct fs *fs = arg;
	struct notification *all, *each, *next;
	while ((all = take_all(fs->notifier))) {
		LL_FOREACH_SAFE(all, each, next)
		{
			send(fs, each);
			free(each);
		}
	}
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

void notify_stop(struct fs *fs)
{
	struct notifier *notifier = fs->notifier;
	if (!notifier)
		return;
	pthread_mutex_lock(&notifier->lock);
	notifier->stopping = true;
	pthread_cond_signal(&notifier->changed);
	pthread_mutex_unlock(&notifier->lock);
	pthread_join(notifier->thread, NULL);

	struct notification *each, *next;
	LL_FOREACH_SAFE(notifier->first, each, next)
	{
		if (each->poll)
			fuse_pollhandle_destroy(each->poll);
		free(each);
	}
	notifier->first = notifier->last = NULL;
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
	if (notifier->last)
		notifier->last->next = notification;
	else
		notifier->first = notification;
	notifier->last = notification;
	pthread_cond_signal(&notifier->changed);
	pthread_mutex_unlock(&notifier->lock);
}

void notify_forget_name(struct fs *fs, fuse_ino_t dir, const char *name)
{
	submit(fs, dir, name, NULL);
}

void notify_poll(struct fs *fs, struct fuse_pollhandle *handle)
{
	submit(fs, 0, "", handle);
}
