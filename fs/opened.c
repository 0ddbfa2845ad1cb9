/* SPDX-License-Identifier: MIT */
#include "opened.h"

#include <stdlib.h>
#include <uthash.h>

#include "fs.h"

struct opened {
	void *handle;
	void (*drop)(struct fs *fs, void *handle);
	UT_hash_handle hh; /* fs->opened, by handle */
};

/* Before the answer, which may bring RELEASE at once. Without memory for it the handle goes with the process. */
static void remember(struct fs *fs, void *handle, void (*drop)(struct fs *fs, void *handle))
{
	struct opened *opened = malloc(sizeof(*opened));
	if (!opened)
		return;
	*opened = (struct opened){.handle = handle, .drop = drop};
	fs_lock(fs);
	HASH_ADD_PTR(fs->opened, handle, opened);
	fs_unlock(fs);
}

int opened_reply(struct fs *fs, fuse_req_t req, struct fuse_file_info *fi, void *handle,
                 void (*drop)(struct fs *fs, void *handle))
{
	fi->fh = (uintptr_t)handle;
	remember(fs, handle, drop);
	int result = fuse_reply_open(req, fi);
	if (result != 0)
		opened_forget(fs, handle);
	return result;
}

void opened_forget(struct fs *fs, void *handle)
{
	struct opened *opened;
	fs_lock(fs);
	HASH_FIND_PTR(fs->opened, &handle, opened);
	if (opened)
		HASH_DEL(fs->opened, opened);
	fs_unlock(fs);
	free(opened);
}

void opened_end(struct fs *fs)
{
	struct opened *opened, *next;
	HASH_ITER(hh, fs->opened, opened, next)
	{
		HASH_DEL(fs->opened, opened);
		opened->drop(fs, opened->handle);
		free(opened);
	}
}
