/** `s3://bucket/prefix`, as WALT_REPO names a repository in a bucket. */
import { ConfigurationError } from '../errors.ts';

export interface S3Location {
  readonly bucket: string;
  /** Empty, or ends with '/'. */
  readonly prefix: string;
}

/** @throws ConfigurationError when it is none. */
export function parseS3Url(url: string): S3Location {
  const match = /^s3:\/\/([A-Za-z0-9][A-Za-z0-9._-]{1,253})((?:\/[!-.0-~]+)*)\/?$/.exec(url);
  const [bucket, path] = [match?.[1], match?.[2] ?? ''];
  if (bucket === undefined) {
    throw new ConfigurationError(`WALT_REPO is not an S3 URL: "${url}"`, {
      hint: 'Write it as s3://bucket/prefix. A bucket\'s name has at least two characters: letters, digits, ".", "_", "-". A prefix has no blanks and nothing beyond ASCII.',
    });
  }
  return { bucket, prefix: path === '' ? '' : `${path.slice(1)}/` };
}
