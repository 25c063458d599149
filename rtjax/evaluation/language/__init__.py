"""Questions about images: accuracy of vision-language models, before and after learning to act."""
